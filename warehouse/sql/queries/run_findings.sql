-- Purpose: what checks found about a run, and about the whole source it comes from.
-- Grain: one finding, those about the run first.
-- Parameters: $run_id.
SELECT finding_id, severity, check_name, source_id, run_id, metric, value, expected, sentence, found_at
FROM findings
WHERE is_current
    AND (
        run_id = $run_id::VARCHAR
        OR (run_id IS NULL AND source_id = (SELECT source_id FROM runs WHERE run_id = $run_id::VARCHAR))
    )
ORDER BY run_id IS NULL, severity = 'doubt', check_name, finding_id
LIMIT 200
