-- Purpose: which LLMs have runs with operators, by source kind.
-- Grain: one LLM and source kind.
-- Parameters: none.
SELECT
    llm_id, coalesce(any_value(llm_name), llm_id) AS llm_name, source_kind, count(*) AS num_runs
FROM comparable
WHERE llm_id IS NOT NULL
    AND run_id IN (SELECT run_id FROM module_ops GROUP BY run_id HAVING count(*) > 1)
GROUP BY llm_id, source_kind
ORDER BY source_kind = 'measured' DESC, num_runs DESC, llm_id
