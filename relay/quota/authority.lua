-- The quota authority of several relays: one frame of one holder, answered in one go.
--
-- KEYS[1] is the hash of what holds for all; every other key begins like it, so all are in one slot of a cluster.
-- ARGV[1] is the frame and the answer is one, both in msgpack: `admission/frames.py` has their shapes.
--
-- Rules that hold inside: whole numbers below 2^53 only; all limits of a need are asked before the first is charged;
-- a frame whose number was seen before changes nothing; time and periods never go back.

local PART = 60000        -- parts of a token, and milliseconds of a minute: a bucket gains `limit` parts a millisecond
local LEASE = 16000       -- ms a holder is believed to live without a word: the 15 s it counts itself, and one of grace
local LONGEST = 2000      -- ms between two frames, of anybody, that count towards the end of a lease
local MOST_LOWS = 16      -- low points a bucket remembers
local BURIED = 100        -- accounts of a dead holder that are settled with one frame
local LATE = 3600000      -- ms for which a dead holder may still say what it has really used
local KEEP = 3600         -- s for which an account is remembered at least
local KEEP_LEASED = 3456000 -- s, where somebody holds a lease of it
local LARGEST = 9e15      -- of all that is counted; a bucket's limit is a 60,000th of it

local RATE, REFUNDED, PERMITS, DAY, MONTH = 0, 1, 2, 3, 4 -- kinds of limits
local REFUSED, GRANTED, HELD, PARKED = 0, 1, 2, 3         -- answers to an ask
local FINE, ANEW, UNKNOWN = 0, 1, 2                       -- answers to a frame

local META = KEYS[1]
local PREFIX = string.sub(META, 1, -5)
local HOLDERS = PREFIX .. 'holders'
local frame = cmsgpack.unpack(ARGV[1])
local id, seq, known, mark, upper, entries, asks, was, asserts, seen, candidate, leaves = unpack(frame)

-- time --------------------------------------------------------------------------------------------

local told = redis.call('TIME')
local wall = tonumber(told[1])
local server = wall * 1000 + math.floor(tonumber(told[2]) / 1000)
local meta = redis.call('HMGET', META, 'epoch', 'mark', 'skew', 'now', 'lease', 'hold', 'expect', 'asserted')
local epoch = meta[1]
local skew, last = tonumber(meta[3] or 0), tonumber(meta[4] or 0)
local lease_now = tonumber(meta[5] or 0)
local hold, expect, asserted = tonumber(meta[6] or 0), tonumber(meta[7] or 0), tonumber(meta[8] or 0)

-- A clock that was set ahead is not believed: the holder knows how much time has passed at the most since it was last told.
local now = server + skew
if upper > 0 and now > upper then now = upper end
if now < last then now = last end
skew = now - server
if last > 0 then lease_now = lease_now + math.min(now - last, LONGEST) end

-- Days since 1970 to year and month, and back (proleptic Gregorian).
local function civil(days)
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return yoe + era * 400 + (month <= 2 and 1 or 0), month
end

local function days_to(year, month)
  if month <= 2 then year = year - 1 end
  local era = math.floor(year / 400)
  local yoe = year - era * 400
  local doy = math.floor((153 * (month + (month > 2 and -3 or 9)) + 2) / 5)
  return era * 146097 + yoe * 365 + math.floor(yoe / 4) - math.floor(yoe / 100) + doy - 719468
end

local function end_of(kind)
  local day = math.floor(wall / 86400)
  if kind == DAY then return (day + 1) * 86400 end
  local year, month = civil(day)
  if month == 12 then return days_to(year + 1, 1) * 86400 end
  return days_to(year, month + 1) * 86400
end

-- accounts ----------------------------------------------------------------------------------------

local accounts = {}

local function account(owner)
  local found = accounts[owner]
  if not found then
    local raw = redis.call('GET', PREFIX .. 'a:' .. owner)
    found = raw and cmsgpack.unpack(raw) or {}
    accounts[owner] = found
  end
  return found
end

local function used_now(m)
  local gained = (now - m.t) * m.l
  m.t = now
  m.u = m.u > gained and m.u - gained or 0
  if m.f then m.f = m.f > gained and m.f - gained or 0 end
end

-- A machine's table: s leased, r leases by holder, k holders that were given more than they needed, x the recall
-- under way; of a rate u parts used at t under the limit l, n takes, v takes that get nothing back, w low points; of a
-- budget e end of the period, p spent, d leases of the dead with their time, f and g what was told of a lost past.
local function machine(owner, name, kind, limit)
  local of = account(owner)
  local m = of[name]
  if not m then
    m = {s = 0, r = {}, k = {}}
    if kind <= REFUNDED then
      m.u, m.t, m.l, m.n, m.v, m.w = 0, now, limit, 0, 0, {}
    elseif kind >= DAY then
      m.e, m.p, m.d = 0, 0, {}
    end
    of[name] = m
  end
  if kind <= REFUNDED then
    used_now(m)
    if hold <= 0 then m.f = nil end
    if m.l ~= limit then
      local left = m.l * PART - m.u
      m.u = limit * PART - math.min(left, limit * PART)
      m.l, m.v, m.w = limit, m.n, {}
    end
  elseif kind >= DAY then
    if wall >= m.e then
      m.e, m.p, m.s, m.r, m.d, m.f, m.g = end_of(kind), 0, 0, {}, {}, nil, nil
      m.k, m.x = {}, nil
    end
    if m.f and hold <= 0 then
      -- What nobody alive has told of: spent by holders that are gone, or by rows that were lost.
      m.p = math.max(m.p, m.f + (m.g or 0))
      m.f, m.g = nil, nil
    end
    for gone, row in pairs(m.d) do
      if now - row[2] > LATE then
        m.p, m.s, m.d[gone] = m.p + row[1], m.s - row[1], nil
      end
    end
  end
  return m
end

local function released(m, holder, amount)
  local row = m.r[holder]
  if row then
    if amount > row then amount = row end
    m.s, row = m.s - amount, row - amount
    m.r[holder] = row > 0 and row or nil
    return
  end
  row = m.d and m.d[holder]
  if row then
    if amount > row[1] then amount = row[1] end
    m.s, row[1] = m.s - amount, row[1] - amount
    if row[1] == 0 then m.d[holder] = nil end
  end
end

local rows_of = {}

local function leased(m, holder, owner, amount)
  m.s = m.s + amount
  local row = m.r[holder]
  m.r[holder] = (row or 0) + amount
  if not row then rows_of[owner] = true end
end

-- A take, as the bucket of one process does it: the low points bound what later comes back.
local function take(m, amount)
  m.n = m.n + 1
  local lows = m.w
  while #lows > 0 and lows[#lows][2] >= m.u do lows[#lows] = nil end
  lows[#lows + 1] = {m.n, m.u}
  if #lows > MOST_LOWS then
    lows[#lows - 1][2] = lows[#lows - 2][2]
    table.remove(lows, #lows - 2)
  end
  m.u = m.u + amount * PART
  return m.n
end

local function refund(m, stamp, amount)
  if stamp <= m.v then return end
  local lows = m.w
  local first = 1
  while first <= #lows and lows[first][1] <= stamp do first = first + 1 end
  local parts = math.min(amount * PART, m.u)
  if first <= #lows then parts = math.min(parts, lows[first][2]) end
  if parts <= 0 then return end
  m.u = m.u - parts
  for place = first, #lows do lows[place][2] = lows[place][2] - parts end
  while first > 1 and first <= #lows and lows[first - 1][2] >= lows[first][2] do
    first = first - 1
    table.remove(lows, first)
  end
end

-- What a holder did since its last frame. Returns the number of the take where refunds may follow, else 0.
local function apply(m, kind, holder, owner, delta)
  local ends, settled, returned, forced, refunds = unpack(delta)
  local stamp = 0
  if kind <= REFUNDED then
    released(m, holder, returned)
    if kind == REFUNDED and settled > 0 then stamp = take(m, settled) else m.u = m.u + settled * PART end
    -- What was taken without a lease, or beyond it, is a debt if it must be.
    m.u = m.u + forced * PART
    for place = 1, #refunds, 2 do refund(m, refunds[place], refunds[place + 1]) end
  elseif kind == PERMITS or ends == m.e then
    -- (What its predecessor forced is forced anew by the holder itself.)
    if forced > 0 and holder == id then leased(m, holder, owner, forced) end
    released(m, holder, returned)
    if kind >= DAY then
      m.p = m.p + settled
      if m.g and holder == id then m.g = m.g + settled end
    end
  end
  return stamp
end

-- holders -----------------------------------------------------------------------------------------

local function kind_of(m)
  if m.u then return RATE end
  return m.e and DAY or PERMITS
end

-- Everything a holder still has in these accounts is taken from it.
local function take_back(holder, owners)
  for _, owner in ipairs(owners) do
    for _, m in pairs(account(owner)) do
      released(m, holder, LARGEST)
      m.k[holder] = nil
    end
  end
end

-- Whoever died may have used it: budgets stay charged, rates count it as used now, permits are free.
local function bury(holder, owners)
  for _, owner in ipairs(owners) do
    local charged = false
    for _, m in pairs(account(owner)) do
      local row = m.r[holder]
      local kind = kind_of(m)
      m.k[holder], m.r[holder] = nil, nil
      if row and kind == DAY then
        m.d[holder], charged = {row, now}, true
      elseif row then
        m.s = m.s - row
        if kind == RATE then
          used_now(m)
          m.u = m.u + row * PART
        end
      end
    end
    if charged then redis.call('SADD', PREFIX .. 'l:' .. holder, owner) end
  end
end

local function bury_the_dead()
  for _, holder in ipairs(redis.call('ZRANGEBYSCORE', HOLDERS, '-inf', lease_now, 'LIMIT', 0, 2)) do
    local owners = redis.call('SPOP', PREFIX .. 'r:' .. holder, BURIED)
    bury(holder, owners)
    redis.call('EXPIRE', PREFIX .. 'l:' .. holder, LATE / 1000)
    if #owners < BURIED then
      redis.call('ZREM', HOLDERS, holder)
      redis.call('EXPIRE', PREFIX .. 'h:' .. holder, LATE / 1000)
    end
  end
end

local function leave(holder)
  take_back(holder, redis.call('SMEMBERS', PREFIX .. 'r:' .. holder))
  take_back(holder, redis.call('SMEMBERS', PREFIX .. 'l:' .. holder))
  redis.call('DEL', PREFIX .. 'r:' .. holder, PREFIX .. 'l:' .. holder, PREFIX .. 'h:' .. holder)
  redis.call('ZREM', HOLDERS, holder)
end

-- A holder that was not heard for long, or outlived a loss, goes on under another name: what it had not said under the
-- old one (of its frames after the last that got here), then its rows go; what its calls hold comes as forced rows.
local function succeed(machines)
  local old, old_seq, sent, unsent = unpack(was)
  local heard = redis.call('GET', PREFIX .. 'h:' .. old)
  if not heard then return end
  for _, told_of in ipairs({tonumber(heard) < old_seq and sent or {}, unsent}) do
    for _, one in ipairs(told_of) do
      local e = entries[one[1]]
      apply(machines[one[1]], e[3], old, e[1], one[2])
    end
  end
  leave(old)
end

-- asks --------------------------------------------------------------------------------------------

local function lacks(m, kind, limit, amount)
  if kind <= REFUNDED then return amount > 0 and m.u + (m.s + amount) * PART > limit * PART end
  if kind == PERMITS then return m.s + amount > limit end
  return amount > 0 and m.p + m.s + amount > limit
end

local function left(m, kind, limit)
  if kind <= REFUNDED then return limit - m.s - math.ceil(m.u / PART) end
  return limit - (m.p or 0) - m.s
end

-- Others may hold what nobody uses: they are asked to give it back, once.
local function recall(m, owner, name)
  local idle = false
  for holder in pairs(m.k) do idle = idle or holder ~= id end
  if not idle then return false end
  if not m.x then
    m.x = now
    redis.call('PUBLISH', PREFIX .. 'recall', cmsgpack.pack({owner, name, m.x}))
  end
  return true
end

local holders = 1

-- As many calls' worth as everybody could have at once; the same number of calls of each limit.
local function more(machines, ask)
  local share = 1
  for place = 2, #ask, 3 do
    local e, m, amount, want = entries[ask[place]], machines[ask[place]], ask[place + 1], ask[place + 2]
    if want > 0 then
      local limit = e[4]
      if m.x and left(m, e[3], limit) >= math.max(8 * holders * amount, limit / 4) then m.x = nil end
      if m.x or limit < 16 * holders * amount then return end
      share = math.min(share, left(m, e[3], limit) / (2 * holders * want))
    end
  end
  for place = 2, #ask, 3 do
    local amount, want = ask[place + 1], ask[place + 2]
    if want > 0 and math.floor(want * share) < 2 * amount then return end
  end
  for place = 2, #ask, 3 do
    local e, m = entries[ask[place]], machines[ask[place]]
    local extra = math.floor(ask[place + 2] * share)
    if extra > 0 then
      leased(m, id, e[1], extra)
      m.k[id] = 1
    end
  end
end

local function grant(machines, ask)
  local taken = {}
  for place = 2, #ask, 3 do
    local e, m, amount = entries[ask[place]], machines[ask[place]], ask[place + 1]
    local kind, limit = e[3], e[4]
    local stamp = 0
    if e[5] == 1 and lacks(m, kind, limit, amount) then stamp = kind <= REFUNDED and -1 or -2 end
    if stamp ~= -1 then
      if kind == RATE then
        m.u = m.u + amount * PART
      elseif kind == REFUNDED then
        stamp = take(m, amount)
      else
        leased(m, id, e[1], amount)
      end
    end
    taken[#taken + 1] = stamp
  end
  return taken
end

-- ask[1]: whether it has waited for a recall already.
local function answer(machines, ask)
  local waits = false
  for place = 2, #ask, 3 do
    local e, m, amount = entries[ask[place]], machines[ask[place]], ask[place + 1]
    if e[5] == 0 then
      if hold > 0 and amount > 0 then return HELD end
      if lacks(m, e[3], e[4], amount) then
        if ask[1] == 1 or amount > e[4] or not recall(m, e[1], e[2]) then return REFUSED end
        waits = true
      end
    end
  end
  if waits then return PARKED end
  local taken = grant(machines, ask)
  if hold <= 0 then more(machines, ask) end
  return taken
end

-- the frame ---------------------------------------------------------------------------------------

local function remember()
  redis.call('HSET', META, 'epoch', epoch, 'mark', mark, 'skew', skew, 'now', now, 'lease', lease_now,
    'hold', hold, 'expect', expect, 'asserted', asserted)
end

if not epoch or meta[2] ~= mark then
  -- Another server, or one that has forgotten: nothing is granted until everybody who was there has said what it knows,
  -- or would have lost what it holds. Where nobody ever was, there is nothing to wait for.
  epoch, asserted = candidate, 0
  expect = math.max(seen, redis.call('ZCARD', HOLDERS))
  hold = expect > 0 and now + LEASE or -1
end
if hold > 0 and now >= hold then hold = 0 end

local status = FINE
local heard = redis.call('GET', PREFIX .. 'h:' .. id)
local lives = tonumber(redis.call('ZSCORE', HOLDERS, id) or 0) > lease_now
if known ~= '' and known ~= epoch then
  status = ANEW
elseif seq > 1 and not lives then
  status = UNKNOWN
end
if status ~= FINE then
  remember()
  return cmsgpack.pack({status, epoch, now, holders, 0, {}, {}})
end

local fresh = seq > tonumber(heard or 0)
redis.call('ZADD', HOLDERS, lease_now + LEASE, id)
redis.call('SET', PREFIX .. 'h:' .. id, math.max(seq, tonumber(heard or 0)), 'EX', KEEP_LEASED)
bury_the_dead()
local machines = {}
for place, e in ipairs(entries) do
  machines[place] = machine(e[1], e[2], e[3], e[4])
end
local results, stamps = {}, {}
if fresh then
  if #was > 0 then
    succeed(machines)
    -- Somebody remembers what is not known here: it began with a holder that knew nobody.
    if asserts > 0 and hold < 0 then hold = now + LEASE end
  end
  for place, e in ipairs(entries) do
    local m, known_level, delta, recalled = machines[place], e[6], e[7], e[8]
    if #known_level > 0 then
      if e[3] <= REFUNDED then
        -- (parts in use as told, taken since): the past is the most that anybody knows, what came since adds up.
        local past = m.f or m.u
        m.f = math.max(past, known_level[1])
        m.u = m.u + m.f - past + known_level[2] * PART
      elseif known_level[1] >= (m.e or 0) then
        -- (end of the period, spent, settled since)
        if known_level[1] > m.e then m.e, m.p, m.s, m.r, m.d, m.k = known_level[1], 0, 0, {}, {}, {} end
        m.f = math.max(m.f or 0, known_level[2])
        m.g = (m.g or 0) + known_level[3]
      end
    end
    if #delta > 0 then stamps[place] = apply(m, e[3], id, e[1], delta) end
    if recalled > 0 and m.x and recalled >= m.x then m.k[id] = nil end
  end
  if asserts == 2 then
    -- It has told all that it knows.
    expect, asserted = math.max(expect, seen), asserted + 1
    if hold > 0 and asserted >= expect then
      hold = 0
      -- What was told counts from here on, also for what is asked with this frame.
      for _, e in ipairs(entries) do machine(e[1], e[2], e[3], e[4]) end
    end
  end
end
holders = redis.call('ZCARD', HOLDERS)
-- Who has not come back yet is not forgotten by those who tell the next server how many there were.
if hold > 0 then holders = math.max(holders, expect) end
if fresh then
  for place, ask in ipairs(asks) do results[place] = answer(machines, ask) end
end

local levels = {}
for place, e in ipairs(entries) do
  local m, kind = machines[place], e[3]
  local row = m.r[id] or 0
  if kind <= REFUNDED then
    levels[place] = {m.u, m.s, row, stamps[place] or 0, 0, m.x or 0, m.k[id] or 0}
  elseif kind == PERMITS then
    levels[place] = {0, m.s, row, 0, 0, m.x or 0, m.k[id] or 0}
  else
    levels[place] = {m.p, m.s, row, m.e, math.max(0, m.e - wall) * 1000, m.x or 0, m.k[id] or 0}
  end
end
if leaves == 1 then leave(id) end

local list = PREFIX .. 'r:' .. id
for owner in pairs(rows_of) do redis.call('SADD', list, owner) end
if next(rows_of) then redis.call('EXPIRE', list, KEEP_LEASED) end
for owner, of in pairs(accounts) do
  local keep = KEEP
  for _, m in pairs(of) do
    if m.s > 0 then keep = KEEP_LEASED end
    if m.e then keep = math.max(keep, m.e - wall + KEEP) end
  end
  redis.call('SET', PREFIX .. 'a:' .. owner, cmsgpack.pack(of), 'EX', keep)
end
remember()
return cmsgpack.pack({FINE, epoch, now, holders, hold > 0 and 1 or 0, results, levels})
