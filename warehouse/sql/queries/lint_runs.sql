-- Purpose: measured and published rows of a family of sources, as the checks read them.
-- Grain: one run.
-- Parameters: $family.
SELECT * EXCLUDE (file_hash, command, status_detail, exclusion_reason)
FROM runs
WHERE source_kind IN ('measured', 'published') AND split_part(source_id, '/', 1) = $family::VARCHAR
ORDER BY source_id, collected_at, run_id
