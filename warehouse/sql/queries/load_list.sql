-- Purpose: files that came in, newest first; quarantined ones before all others.
-- Grain: one landed file.
-- Parameters: $outcome, NULL for both; $file_hash, NULL for every file.
SELECT file_hash, file_name, table_name, num_rows, num_new_rows, loaded_at, outcome, reason
FROM loads
WHERE ($outcome::VARCHAR IS NULL OR outcome = $outcome::VARCHAR)
    AND ($file_hash::VARCHAR IS NULL OR file_hash = $file_hash::VARCHAR)
ORDER BY outcome DESC, loaded_at DESC, file_name
LIMIT 500
