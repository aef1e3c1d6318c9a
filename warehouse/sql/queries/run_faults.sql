-- Purpose: which of some runs a check found wrong or doubtful, and what it said first, faults before doubts.
-- Grain: one run with findings.
-- Parameters: $run_ids.
SELECT
    run_id,
    count(*) FILTER (WHERE severity = 'fault') AS num_faults,
    count(*) FILTER (WHERE severity = 'doubt') AS num_doubts,
    arg_min(sentence, severity = 'doubt') AS finding
FROM findings
WHERE list_contains($run_ids::VARCHAR[], run_id) AND is_current
GROUP BY run_id
ORDER BY run_id
