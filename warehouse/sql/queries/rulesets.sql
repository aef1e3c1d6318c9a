-- Purpose: analytical rulesets that have rows.
-- Grain: one ruleset.
-- Parameters: none.
SELECT ruleset, count(*) AS num_runs
FROM runs
WHERE ruleset IS NOT NULL
GROUP BY ruleset
ORDER BY ruleset <> 'default', ruleset
