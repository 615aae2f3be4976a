// One streamed call to the data port, measured as it comes. Times in milliseconds of the page's clock.

const KEPT = 200_000; // characters of what is shown raw: the latest

export class Call {
  constructor(origin, key, body, tell) {
    this.origin = origin;
    this.key = key;
    this.body = body;
    this.tell = tell;
    this.text = "";
    this.raw = []; // events as they came: their number, when (seconds from the start), and the text
    this.kept = 0; // characters of these
    this.came = 0; // events, those included that are not kept any more
    this.gaps = [];
    this.requestId = null;
    this.usage = null;
    this.error = null;
    this.end = null; // done | stopped | broken | error | unreachable
    this.first = null;
    this.aborter = new AbortController();
  }

  stop() {
    this.aborter.abort();
  }

  get ttft() {
    return this.first === null ? null : (this.first - this.sent) / 1000;
  }

  get duration() {
    return ((this.ended ?? performance.now()) - this.sent) / 1000;
  }

  get longestGap() {
    return this.gaps.length > 1 ? Math.max(...this.gaps.slice(1)) : null;
  }

  // Tokens per second once it writes; until usage is told, events stand for tokens.
  get rate() {
    if (this.first === null) return null;
    const seconds = ((this.ended ?? performance.now()) - this.first) / 1000;
    const tokens = this.usage?.completion_tokens ?? this.gaps.length;
    return seconds > 0.05 ? tokens / seconds : null;
  }

  async run() {
    this.sent = performance.now();
    this.last = this.sent;
    try {
      const answer = await fetch(this.origin + "/v1/chat/completions", {
        method: "POST",
        headers: {
          authorization: "Bearer " + this.key,
          "content-type": "application/json",
          // Tells the relay which calls to tell the page of.
          "x-request-id": "playground-" + crypto.getRandomValues(new Uint32Array(2)).join("-"),
        },
        body: JSON.stringify(this.body),
        credentials: "omit",
        cache: "no-store",
        signal: this.aborter.signal,
      });
      this.requestId = answer.headers.get("x-request-id");
      this.tell(this);
      if (answer.ok) await this.read(answer.body.getReader());
      else await this.refused(answer);
    } catch {
      this.end = this.aborter.signal.aborted ? "stopped" : this.requestId ? "broken" : "unreachable";
    }
    this.ended = performance.now();
    this.tell(this);
  }

  keep(text) {
    text = text.slice(0, KEPT);
    this.raw.push({ number: this.came++, at: (performance.now() - this.sent) / 1000, text });
    this.kept += text.length;
    while (this.kept > KEPT) this.kept -= this.raw.shift().text.length;
  }

  async refused(answer) {
    this.end = "error";
    const text = await answer.text();
    this.keep(text);
    try {
      this.error = { status: answer.status, message: JSON.parse(text).error.message };
    } catch {
      this.error = { status: answer.status, message: text.slice(0, 300) };
    }
  }

  async read(reader) {
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const text = decoder.decode(value, { stream: true });
      const events = (rest + text).split(/\r?\n\r?\n/);
      rest = events.pop();
      for (const event of events) {
        this.keep(event);
        this.heard(event);
      }
      this.tell(this);
    }
    if (rest) this.keep(rest);
    this.end ??= "broken";
  }

  heard(event) {
    const data = event.split(/\r?\n/)
      .filter((line) => line.startsWith("data:"))
      .map((line) => line.slice(5).trimStart())
      .join("\n");
    if (data === "") return; // a comment: the relay says that it is still there
    if (data === "[DONE]") {
      this.end ??= "done";
      return;
    }
    const now = performance.now();
    const chunk = JSON.parse(data);
    if (chunk.error) {
      this.end = "error";
      this.error = { status: chunk.error.code ?? chunk.error.type, message: chunk.error.message };
      return;
    }
    if (chunk.usage) this.usage = chunk.usage;
    const delta = chunk.choices?.[0]?.delta;
    if (!delta) return;
    const words = delta.content || delta.reasoning_content || delta.reasoning || "";
    if (!words && !delta.tool_calls) return; // the role alone is no token
    this.first ??= now;
    this.gaps.push((now - this.last) / 1000);
    this.last = now;
    this.text += words;
  }
}
