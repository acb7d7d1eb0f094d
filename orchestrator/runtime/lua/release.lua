-- Give a lease back, so that another node can take it at once. KEYS lease, owned hash   ARGV owner token
-- The token goes too: a commit that a dead connection carries out late must not pass any more.
if redis.call('HGET', KEYS[2], 'owner') == ARGV[1] then redis.call('HDEL', KEYS[2], 'owner', 'address') end
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
