-- Purpose: analytical rows that a newer revision of the engine computed again; charts leave them out, links to them still open.
-- Grain: one analytical run that is not the newest of its configuration and ruleset.
SELECT run_id
FROM (
    SELECT
        run_id,
        row_number() OVER (
            PARTITION BY config_id, ruleset
            ORDER BY engine_revision DESC NULLS LAST, collected_at DESC, run_id
        ) AS place
    FROM runs
    WHERE source_kind = 'analytical'
)
WHERE place > 1
