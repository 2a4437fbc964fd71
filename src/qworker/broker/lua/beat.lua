-- Keep a worker's own account of itself, for a while. A hash with one field, because a no-op HDEL opens a full server.
--
-- transition: none
-- KEYS: record
-- ARGV: record, ttl_ms
-- reply: 1
-- refuses: none
-- cost: O(1)

call('HDEL', K.record, '')
call('HSET', K.record, 'record', A.record)
return call('PEXPIRE', K.record, A.ttl_ms)
