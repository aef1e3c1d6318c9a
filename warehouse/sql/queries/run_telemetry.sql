-- Purpose: readings of device counters during a run.
-- Grain: one reading of one device; device -1 is the host.
-- Parameters: $run_id.
SELECT * EXCLUDE (run_id, file_hash), len(throttle_reasons) > 0 AS is_throttled
FROM telemetry
WHERE run_id = $run_id::VARCHAR
ORDER BY device_index, at_s
