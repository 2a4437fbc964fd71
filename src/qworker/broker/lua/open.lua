-- Read the schema and the epoch of a queue; write them when there are none: a new queue, or a server that lost its data.
--
-- transition: none
-- KEYS: meta, tasks
-- ARGV: now_ms, epoch
-- reply: schema, epoch
-- refuses: none
-- cost: O(1)

begin()
call('HSETNX', K.meta, 'schema', '1')
call('HSETNX', K.meta, 'epoch', A.epoch)
return call('HMGET', K.meta, 'schema', 'epoch')
