-- Put a worker on the list of workers, with the time of its last beat, and drop those that were silent for long.
--
-- transition: none
-- KEYS: workers
-- ARGV: now_ms, member, forget_ms
-- reply: now_ms
-- refuses: none
-- cost: O(log workers + workers dropped)

local now = clock()
-- First what only takes away: so a full server lets the rest pass, too.
call('ZREMRANGEBYSCORE', K.workers, '-inf', int(now - tonumber(A.forget_ms)))
call('ZADD', K.workers, int(now), A.member)
return int(now)
