-- Keep a worker's own account of itself, for a while. A hash with one field, because a no-op HDEL opens a full server.
-- Its first account is announced: the workers of its host then watch it from its first second on.
--
-- transition: none
-- KEYS: record
-- ARGV: record, ttl_ms, hello
-- reply: 1 if nothing was known of it, else 0
-- refuses: none
-- cost: O(1)

call('HDEL', K.record, '')
local first = call('HSET', K.record, 'record', A.record)
if first == 1 then call('PUBLISH', A.hello, '') end
call('PEXPIRE', K.record, A.ttl_ms)
return first
