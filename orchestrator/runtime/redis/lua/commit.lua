-- Commit one step of one session, and trim inbox and feed: all checks first, then writes that cannot fail.
-- KEYS shard hash, session log, session state, live sessions, feed, inbox, positions of the projections
-- ARGV owner token, expected cursor, new cursor, expected version, new version, events, session id, state hash,
--      'ended' when the session ended in this step, a snapshot of the session before it (or '')
-- Returns 'OK', or which check failed: 'NOT_OWNER', 'CURSOR', 'VERSION'.
local shard = redis.call('HMGET', KEYS[1], 'owner', 'cursor')
if shard[1] ~= ARGV[1] then return 'NOT_OWNER' end
if (shard[2] or '0-0') ~= ARGV[2] then return 'CURSOR' end
if (redis.call('HGET', KEYS[3], 'version') or '0') ~= ARGV[4] then return 'VERSION' end
redis.call('XADD', KEYS[2], '0-' .. ARGV[5], 'e', ARGV[6])
-- The next owner measures the time since this commit by the server's clock alone: two nodes' clocks may differ.
local time = redis.call('TIME')
local now_us = string.format('%.0f', time[1] * 1000000 + time[2])
redis.call('HSET', KEYS[3], 'version', ARGV[5], 'state_hash', ARGV[8], 'committed_us', now_us)
if ARGV[9] == 'ended' then
  redis.call('SREM', KEYS[4], ARGV[7])
  redis.call('HDEL', KEYS[3], 'snapshot')
elseif ARGV[4] == '0' then redis.call('SADD', KEYS[4], ARGV[7])
elseif ARGV[10] ~= '' then redis.call('HSET', KEYS[3], 'snapshot', ARGV[10]) end
local pointer = redis.call('HINCRBY', KEYS[1], 'feed', 1)
redis.call('XADD', KEYS[5], '0-' .. pointer, 's', ARGV[7], 'f', ARGV[4] + 1, 't', ARGV[5])
redis.call('HSET', KEYS[1], 'cursor', ARGV[3])
-- Handled inbox entries are in the log, so they are removed here. The feed keeps its last 10,000 pointers for programs
-- that follow it, and the pointers that a projection has not read yet: at most a million. A projection that is further
-- behind reads the logs.
redis.call('XTRIM', KEYS[6], 'MINID', '~', ARGV[3])
if pointer % 100 == 0 then
  local first = pointer - 10000
  for _, position in ipairs(redis.call('HVALS', KEYS[7])) do first = math.min(first, tonumber(position) + 1) end
  first = math.max(first, pointer - 1000000)
  if first > 0 then redis.call('XTRIM', KEYS[5], 'MINID', '~', string.format('0-%.0f', first)) end
end
return 'OK'
