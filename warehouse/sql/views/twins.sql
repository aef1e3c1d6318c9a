-- Purpose: what the analytical model says of each configuration, to stand beside its measurements: of several engine revisions the newest.
-- Grain: one configuration with an analytical row of ruleset `default`.
SELECT DISTINCT ON (config_id) *
FROM runs
WHERE source_kind = 'analytical' AND ruleset = 'default' AND status = 'ok'
ORDER BY config_id, engine_revision DESC NULLS LAST, collected_at DESC, run_id
