-- Purpose: the landed file a run came in.
-- Grain: one file.
-- Parameters: $run_id.
SELECT loads.*
FROM loads
JOIN runs USING (file_hash)
WHERE runs.run_id = $run_id::VARCHAR
