-- Purpose: the LLM catalogue, with how many rows each LLM has.
-- Grain: one LLM.
-- Parameters: none.
SELECT llms.*, coalesce(counts.num_runs, 0) AS num_runs, coalesce(counts.num_observed, 0) AS num_observed
FROM llms
LEFT JOIN (
    SELECT llm_id, count(*) AS num_runs, count(*) FILTER (WHERE source_kind IN ('measured', 'published')) AS num_observed
    FROM runs
    GROUP BY llm_id
) AS counts USING (llm_id)
ORDER BY num_observed DESC, llms.name
