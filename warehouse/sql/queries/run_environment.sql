-- Purpose: the machine and software of a run.
-- Grain: one environment, or nothing where the run has none.
-- Parameters: $run_id.
SELECT environments.*
FROM environments
JOIN runs USING (environment_id)
WHERE runs.run_id = $run_id::VARCHAR
