-- Everything that is known of a group, and a part of its members, in the order in which they joined.
--
-- Looking changes nothing: an owner's lease that has lapsed is applied by whoever has to do with the group.
--
-- transition: none
-- KEYS: group, members
-- ARGV: now_ms, first, size
-- reply: now_ms, where it stands, how many members, its fields, the members from `first` on
-- refuses: none
-- cost: O(size)

local now = clock()
local group, first = read_group(K.group), tonumber(A.first)
local state = group and (is_lapsed(group, now) and 'late' or group.state) or ''
local part = call('ZRANGE', K.members, first, first + tonumber(A.size) - 1)
return { int(now), state, call('ZCARD', K.members), call('HGETALL', K.group), part }
