-- Purpose: the device type of a run: its memory, bandwidth and board power, with their source.
-- Grain: one device type, or nothing where the run names none of the catalogue.
-- Parameters: $run_id.
SELECT hardware.* EXCLUDE (file_hash)
FROM hardware
JOIN runs USING (hardware_id)
WHERE runs.run_id = $run_id::VARCHAR
