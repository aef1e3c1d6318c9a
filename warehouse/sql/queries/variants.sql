-- Purpose: one configuration executed in several ways: kernels issued one by one, compiled, or replayed as a graph, with a dynamic or a
--   static cache; how long each took, how long the device worked meanwhile, and how often one is as fast as the slowest. Of runs that
--   repeat one another the newest that ended counts.
-- Grain: one configuration, task, execution and cache implementation.
-- Parameters: $config_ids, NULL for all; $task, NULL for every task; $is_several true for configurations with several variants only.
WITH newest AS (
    SELECT DISTINCT ON (config_id, task, execution, cache_implementation) *
    FROM comparable
    WHERE source_kind = 'measured'
        AND NOT is_excluded
        AND phase <> 'microbench'
        AND ($config_ids::VARCHAR[] IS NULL OR list_contains($config_ids::VARCHAR[], config_id))
        AND ($task::VARCHAR IS NULL OR task = $task::VARCHAR)
    ORDER BY config_id, task, execution, cache_implementation, status <> 'ok', collected_at DESC, run_id
)
SELECT
    run_id, config_id, llm_id, llm_name, hardware_id, device, phase, batch, tokens, dtype, task, attention,
    coalesce(execution, 'not stated') AS execution,
    cache_implementation,
    status, status_detail, latency_s, latency_p50_s, latency_std_s, device_time_s,
    coalesce(kernel_time_s, device_time_s) AS kernel_time_s,
    is_host_bound,
    1 - coalesce(kernel_time_s, device_time_s) / nullif(latency_s, 0) AS idle_share,
    output_tokens_per_s, mfu, mbu, mbu_achievable, memory_peak_bytes, energy_per_output_token_j, other_load_ratio,
    max(latency_s) OVER same / nullif(latency_s, 0) AS speedup
FROM newest
WINDOW same AS (PARTITION BY config_id, task)
QUALIFY NOT coalesce($is_several::BOOLEAN, false) OR count(*) OVER same > 1
ORDER BY llm_name, device, phase, batch, tokens, task, latency_s NULLS LAST, run_id
