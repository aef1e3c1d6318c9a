-- Purpose: analytical rows that a newer revision of the engine computed again; charts leave them out, links to them still open.
--   The execution profile is no part of the configuration: of the newest revision one row of each profile counts.
-- Grain: one analytical run that does not count.
SELECT run_id
FROM (
    SELECT
        run_id,
        rank() OVER (PARTITION BY config_id, ruleset ORDER BY engine_revision DESC NULLS LAST) AS age,
        row_number() OVER (
            PARTITION BY config_id, ruleset, execution
            ORDER BY engine_revision DESC NULLS LAST, collected_at DESC, run_id
        ) AS place
    FROM runs
    WHERE source_kind = 'analytical'
)
WHERE age > 1 OR place > 1
