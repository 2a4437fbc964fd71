-- Say of each task, at one moment, its outcome, or that it lives, or that nothing is known of it.
--
-- transition: none
-- KEYS: bodies, results...
-- ARGV: ids...
-- reply: per id the outcome, or 1 (lives), or 0
-- refuses: none
-- cost: O(ids)

local reply = {}
for i = 1, #ARGV do
  local outcome = call('GET', KEYS[RESULTS + i - 1])
  if outcome then
    reply[i] = outcome
  else
    reply[i] = call('HEXISTS', K.bodies, ARGV[i])
  end
end
return reply
