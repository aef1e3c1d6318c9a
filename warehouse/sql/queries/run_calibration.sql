-- Purpose: the constants behind the estimate of a run, and the rows they come from.
-- Grain: one set of constants, or nothing where the run has no estimate or uses constants shipped with the engine.
-- Parameters: $run_id.
SELECT calibrations.* EXCLUDE (file_hash)
FROM calibrations
JOIN runs USING (calibration_id)
WHERE runs.run_id = $run_id::VARCHAR
