-- Purpose: how far off published forecasts were, once somebody measured: only rows collected after the forecast score it.
-- Grain: one forecast and one measured or published run of its configuration; a forecast that nobody measured yet is one row with NULLs.
WITH later AS (
    SELECT
        forecasts.forecast_id, runs.run_id AS actual_run_id, runs.source_kind AS actual_kind, runs.source_id AS actual_source_id,
        runs.collected_at AS actual_at,
        CASE forecasts.metric
            WHEN 'latency_s' THEN runs.latency_s
            WHEN 'ttft_s' THEN runs.ttft_s
            WHEN 'tpot_s' THEN runs.tpot_s
            WHEN 'itl_s' THEN runs.itl_s
            WHEN 'e2el_s' THEN runs.e2el_s
            WHEN 'forward_s' THEN runs.forward_s
            WHEN 'backward_s' THEN runs.backward_s
            WHEN 'optimizer_s' THEN runs.optimizer_s
            WHEN 'output_tokens_per_s' THEN runs.output_tokens_per_s
            WHEN 'total_tokens_per_s' THEN runs.total_tokens_per_s
            WHEN 'requests_per_s' THEN runs.requests_per_s
            WHEN 'achieved_bytes_per_s' THEN runs.achieved_bytes_per_s
            WHEN 'achieved_flops_per_s' THEN runs.achieved_flops_per_s
            WHEN 'memory_peak_bytes' THEN runs.memory_peak_bytes
            WHEN 'memory_reserved_bytes' THEN runs.memory_reserved_bytes
            WHEN 'memory_device_bytes' THEN runs.memory_device_bytes
            WHEN 'power_avg_w' THEN runs.power_avg_w
            WHEN 'energy_j' THEN runs.energy_j
            WHEN 'energy_per_output_token_j' THEN runs.energy_per_output_token_j
        END AS actual
    FROM forecasts
    JOIN runs ON runs.config_id = forecasts.config_id AND runs.collected_at > forecasts.published_at
    WHERE runs.source_kind IN ('measured', 'published') AND runs.status = 'ok' AND NOT runs.is_excluded
)
SELECT
    forecasts.forecast_id, forecasts.run_id, forecasts.config_id, forecasts.metric, forecasts.value, forecasts.lower, forecasts.upper,
    forecasts.predictor_id, forecasts.snapshot_id, forecasts.published_at, forecasts.note,
    later.actual_run_id, later.actual_kind, later.actual_source_id, later.actual_at, later.actual,
    forecasts.value / nullif(later.actual, 0) - 1 AS error_ratio,
    later.actual BETWEEN forecasts.lower AND forecasts.upper AS is_inside
FROM forecasts
LEFT JOIN (SELECT * FROM later WHERE actual IS NOT NULL) AS later USING (forecast_id)
