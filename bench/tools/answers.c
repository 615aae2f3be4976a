#include "answers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

#define STAMP_LEN (1 + 19 + 1 + 19 + 1)
#define EVENT                                                                                                          \
    "{\"id\":\"chatcmpl-standin\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,"                        \
    "\"model\":\"bench-model\",\"system_fingerprint\":\"fp_standin\",\"choices\":["
#define CONTENT_BEFORE "data: " EVENT "{\"index\":0,\"delta\":{\"content\":\""
#define CONTENT_AFTER "\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n"
#define ROLE                                                                                                           \
    "data: " EVENT "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"                                 \
    "\"logprobs\":null,\"finish_reason\":null}]}\n\n"
#define FINISH "data: " EVENT "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n"

void text_reserve(text *t, size_t more)
{
    if (t->len + more <= t->room)
        return;
    t->room = (t->len + more) * 2;
    t->bytes = realloc(t->bytes, t->room);
    if (t->bytes == NULL)
        abort();
}

static void add(text *t, const char *bytes, size_t len)
{
    text_reserve(t, len);
    memcpy(t->bytes + t->len, bytes, len);
    t->len += len;
}

static void add_chunk(text *t, const char *bytes, size_t len)
{
    char size[24];
    add(t, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", len));
    add(t, bytes, len);
    add(t, "\r\n", 2);
}

static char *put_digits(char *at, uint64_t value)
{
    for (int i = 18; i >= 0; i--, value /= 10)
        at[i] = (char)('0' + value % 10);
    return at + 19;
}

/* The stamp and its padding. */
static void add_text(text *t, uint64_t received, unsigned pad)
{
    text_reserve(t, STAMP_LEN + (size_t)pad);
    char *at = t->bytes + t->len;
    *at++ = '@';
    at = put_digits(at, now_ns());
    *at++ = '/';
    at = put_digits(at, received);
    *at++ = ';';
    memset(at, 'x', pad);
    t->len += STAMP_LEN + (size_t)pad;
}

void add_stream_head(text *t)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                               "Transfer-Encoding: chunked\r\n\r\n";
    add(t, head, sizeof head - 1);
    add_chunk(t, ROLE, sizeof ROLE - 1);
}

void add_content(text *t, uint64_t received, unsigned pad)
{
    const size_t before = sizeof CONTENT_BEFORE - 1, after = sizeof CONTENT_AFTER - 1;
    char size[24];
    add(t, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", before + STAMP_LEN + pad + after));
    add(t, CONTENT_BEFORE, before);
    add_text(t, received, pad);
    add(t, CONTENT_AFTER "\r\n", after + 2);
}

void add_stream_end(text *t, unsigned events, bool usage)
{
    char report[512];
    add_chunk(t, FINISH, sizeof FINISH - 1);
    if (usage) {
        int len = snprintf(report, sizeof report,
                           "data: " EVENT "],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":%u,"
                           "\"total_tokens\":%u}}\n\n",
                           events, events + 20);
        add_chunk(t, report, (size_t)len);
    }
    add_chunk(t, "data: [DONE]\n\n", 14);
    add(t, "0\r\n\r\n", 5);
}

void add_completion(text *t, uint64_t received, unsigned pad, unsigned tokens)
{
    static const char before[] = "{\"id\":\"chatcmpl-standin\",\"object\":\"chat.completion\",\"created\":1764000000,"
                                 "\"model\":\"bench-model\",\"system_fingerprint\":\"fp_standin\",\"choices\":[{"
                                 "\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"";
    char after[256], head[160];
    int after_len = snprintf(after, sizeof after,
                             "\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":20,"
                             "\"completion_tokens\":%u,\"total_tokens\":%u}}",
                             tokens, tokens + 20);
    size_t len = sizeof before - 1 + STAMP_LEN + pad + (size_t)after_len;
    int head_len = snprintf(head, sizeof head,
                            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", len);
    add(t, head, (size_t)head_len);
    add(t, before, sizeof before - 1);
    add_text(t, received, pad);
    add(t, after, (size_t)after_len);
}

static void add_json(text *t, const char *status, const char *body)
{
    char head[160];
    int len = snprintf(head, sizeof head,
                       "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", status,
                       strlen(body));
    add(t, head, (size_t)len);
    add(t, body, strlen(body));
}

void add_overloaded(text *t)
{
    add_json(t, "503 Service Unavailable",
             "{\"error\":{\"message\":\"overloaded\",\"type\":\"server_error\",\"param\":null,\"code\":null}}");
}

void add_facts(text *t)
{
    add_json(t, "200 OK",
             "{\"object\":\"list\",\"status\":\"ok\",\"model_path\":\"bench-model\",\"data\":[{\"id\":\"bench-model\","
             "\"object\":\"model\",\"created\":1764000000,\"owned_by\":\"standin\"}]}");
}
