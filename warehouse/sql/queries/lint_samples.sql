-- Purpose: figures of a family of sources that stand in no column: the first of each metric of a run.
-- Grain: one metric of one run.
-- Parameters: $family.
SELECT samples.run_id, samples.metric, samples.value, samples.unit
FROM samples
JOIN runs USING (run_id)
WHERE runs.source_kind IN ('measured', 'published') AND split_part(runs.source_id, '/', 1) = $family::VARCHAR
    AND samples.sample_index = 0 AND samples.metric LIKE '%:%' AND samples.value IS NOT NULL
ORDER BY samples.run_id, samples.metric
