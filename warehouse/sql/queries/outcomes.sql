-- Purpose: failures counted, so that a sweep that ran into the end of memory is one line.
-- Grain: one outcome, source, LLM, device and phase.
-- Parameters: none.
SELECT
    CASE WHEN is_excluded THEN 'kept out' ELSE status END AS outcome,
    source_id,
    llm_id,
    hardware_id,
    phase,
    count(*) AS num_runs,
    string_agg(DISTINCT batch_size::VARCHAR, ', ' ORDER BY batch_size::VARCHAR) AS batch_sizes,
    arg_max(coalesce(exclusion_reason, status_detail), collected_at) AS reason,
    arg_max(run_id, collected_at) AS run_id,
    max(collected_at) AS last_collected_at
FROM runs
WHERE status <> 'ok' OR is_excluded
GROUP BY ALL
ORDER BY max(source_kind = 'measured') DESC, num_runs DESC, source_id, llm_id, phase, outcome
LIMIT 500
