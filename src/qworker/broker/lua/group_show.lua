-- Everything that is known of a group, and a part of its members, in the order in which they joined.
--
-- transition: none
-- KEYS: group, members
-- ARGV: now_ms, id, first, size, channel
-- reply: now_ms, where it stands, how many members, its fields, the members from `first` on
-- refuses: none
-- cost: O(size)

local now = begin(K.group)
local group, first = read_group(K.group), tonumber(A.first)
local state = group and judge(K.group, A.id, group, now) or ''
local part = call('ZRANGE', K.members, first, first + tonumber(A.size) - 1)
return { int(now), state, call('ZCARD', K.members), call('HGETALL', K.group), part }
