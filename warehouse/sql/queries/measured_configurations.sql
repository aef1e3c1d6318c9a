-- Purpose: what has been measured already (on a busy machine too), so that a plan run again measures only what is missing.
-- Grain: one configuration and task.
SELECT DISTINCT config_id, task
FROM runs
WHERE collector = 'local_profile' AND status = 'ok'
