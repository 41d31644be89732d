//! The two scripts that make the log what it is. Each runs atomically in Redis.
//!
//! All keys of one call have to be on one slot of a cluster; the log's names have braces for that.

/// A script, and what Redis knows it by.
pub(super) struct Script {
    pub(super) text: &'static str,
    pub(super) hash: String,
}

impl Script {
    pub(super) fn new(text: &'static str) -> Script {
        Script { text, hash: redis::Script::new(text).get_hash().to_owned() }
    }
}

/// Appends an invalidation and announces it, in one step; begins a missing stream with a marker first.
///
/// `KEYS[1]` the stream, `KEYS[2]` the de-duplication key of this message, if it is asked for: one key alone can be
/// followed while its slot moves;
/// `ARGV`: message, origin, floor (the newest id the caller has seen), retention in milliseconds, the bell's
/// channel, what the caller had heard announced (empty: no de-duplication), the most entries kept.
/// Returns `{id, previous}`.
///
/// * Every entry carries its predecessor's id, so that a reader notices a gap.
/// * The new id lies after the floor: the log never goes back behind what its appender knows, even when a
///   failover lost the newest entries or the server's clock went back.
/// * A message that somebody published is logged once, however many instances heard it: who finds that the
///   same text was logged after all that his own subscription had announced before the message takes that
///   entry for his.
pub(super) const APPEND: &str = r"
local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local function after(a, b)
  local am, as = parts(a)
  local bm, bs = parts(b)
  return am > bm or (am == bm and as > bs)
end
local stream, message, floor = KEYS[1], ARGV[1], ARGV[3]
if ARGV[6] ~= '' then
  local logged = redis.call('HMGET', KEYS[2], 'id', 'previous')
  if logged[1] and after(logged[1], ARGV[6]) then return {logged[1], logged[2]} end
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function next_id(last)
  local ms, seq = parts(last)
  if now > ms then return string.format('%.0f-0', now) end
  return string.format('%.0f-%.0f', ms, seq + 1)
end
local last
if redis.call('EXISTS', stream) == 1 then
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
else
  last = redis.call('XADD', stream, next_id(floor), 'v', '1', 'k', 'begin', 'p', '0-0', 'm', '{}', 'o', ARGV[2])
end
local id = next_id(after(floor, last) and floor or last)
redis.call('XADD', stream, id, 'v', '1', 'p', last, 'm', message, 'o', ARGV[2])
redis.call('XTRIM', stream, 'MINID', '~', string.format('%.0f', math.max(0, now - tonumber(ARGV[4]))))
redis.call('XTRIM', stream, 'MAXLEN', '~', ARGV[7])
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[2], 'id', id, 'previous', last)
  redis.call('PEXPIRE', KEYS[2], 60000)
end
redis.call('PUBLISH', ARGV[5], id .. ' ' .. last .. ' ' .. ARGV[2] .. ' ' .. message)
return {id, last}
";

/// Reads the log after an id; begins a missing stream with a marker first.
///
/// `KEYS[1]` the stream; `ARGV`: the last id applied, how many entries at most, origin.
/// Returns `{last generated id, 1 if the last id applied is still in the stream, entries}`, each entry as
/// XRANGE gives it.
pub(super) const READ: &str = r"
local stream, from = KEYS[1], ARGV[1]
if redis.call('EXISTS', stream) == 0 then
  local ms, seq = string.match(from, '^(%d+)-(%d+)$')
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local id = string.format('%.0f-0', now)
  if now <= tonumber(ms) then id = string.format('%.0f-%.0f', tonumber(ms), tonumber(seq) + 1) end
  redis.call('XADD', stream, id, 'v', '1', 'k', 'begin', 'p', '0-0', 'm', '{}', 'o', ARGV[3])
end
local last = '0-0'
local info = redis.call('XINFO', 'STREAM', stream)
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
end
local found = #redis.call('XRANGE', stream, from, from)
return {last, found, redis.call('XRANGE', stream, '(' .. from, '+', 'COUNT', ARGV[2])}
";
