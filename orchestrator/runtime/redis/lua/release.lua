-- Give a lease back, so that another node can take it at once; for a moment that is its heir alone, if there is one.
-- KEYS lease, owned hash   ARGV owner token, heir (a node, or ''), how long it is kept for it in ms, the heir's address
-- The token goes too: a commit that a dead connection carries out late must not pass any more.
if redis.call('HGET', KEYS[2], 'owner') == ARGV[1] then redis.call('HDEL', KEYS[2], 'owner', 'address') end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], 'for ' .. ARGV[2], 'PX', ARGV[3])
redis.call('HSET', KEYS[2], 'address', ARGV[4])
return 1
