-- Keep a lease that is still ours. KEYS lease   ARGV owner token, lease ms   Returns 1, or 0 when it is lost.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
