-- Purpose: what was served and under which workloads, those known at most loads first.
-- Grain: one LLM (or served name) and workload.
-- Parameters: none.
SELECT
    served_id,
    any_value(served_name) AS served_name,
    workload,
    count(*) AS num_runs,
    count(DISTINCT load_words) AS num_loads,
    count(DISTINCT device) AS num_devices,
    list_sort(list(DISTINCT hardware_id)) AS hardware_ids,
    (sum(count(*)) OVER (PARTITION BY served_id))::BIGINT AS num_runs_of_llm
FROM served
GROUP BY served_id, workload
ORDER BY bool_or(status = 'ok' AND NOT is_excluded) DESC, num_loads > 1 DESC, num_runs DESC, served_id, workload
