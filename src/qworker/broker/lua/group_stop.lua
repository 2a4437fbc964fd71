-- Stop a group, however many tasks it holds: one write, and a hint to all workers. In mode "gone", its owner has ended.
--
-- Workers read the states of groups before they start what belongs to them, and with every renewal.
--
-- transition: none
-- KEYS: group
-- ARGV: now_ms, id, mode, reason, grace, channel
-- reply: its state; empty: it is not known
-- refuses: none
-- cost: O(1)

local now = begin(K.group)
local group = read_group(K.group)
if not group then return '' end
if A.mode == 'gone' then
  lose_owner(K.group, A.id, group, now)
else
  stop_group(K.group, A.id, group, A.reason, A.grace, now)
end
return group.state
