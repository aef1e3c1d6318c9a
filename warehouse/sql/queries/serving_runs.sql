-- Purpose: served loads of one LLM: latency percentiles, throughput, goodput and what is to be known of each before it is compared.
-- Grain: one run.
-- Parameters: $served_id; $workload, NULL for any; $hardware_ids, NULL for all; $with_excluded, false leaves out rows kept out of charts.
SELECT
    run_id, source_kind, source_id, source_cell, collector, quality_tier, collected_at, status, status_detail, is_excluded, exclusion_reason,
    served_id, served_name, served_model_name, llm_id, hardware_id, device, num_devices, dtype, framework, framework_version, pools, variant, task, workload, load_words,
    load_pattern, concurrency, request_rate_per_s, concurrency_mean, concurrency_max, is_saturated, is_client_trusted, client_delay_p99_s,
    num_requests, num_failed_requests, success_rate, duration_s, steady_s,
    ttft_s, ttft_p50_s, ttft_p90_s, ttft_p95_s, ttft_p99_s,
    tpot_s, tpot_p50_s, tpot_p90_s, tpot_p95_s, tpot_p99_s,
    itl_s, itl_p50_s, itl_p90_s, itl_p95_s, itl_p99_s,
    ntpot_s, ntpot_p50_s, ntpot_p90_s, ntpot_p95_s, ntpot_p99_s,
    icl_s, icl_p50_s, icl_p90_s, icl_p95_s, icl_p99_s,
    e2el_s, e2el_p50_s, e2el_p90_s, e2el_p95_s, e2el_p99_s,
    ttft_scheduled_s, ttft_scheduled_p50_s, ttft_scheduled_p90_s, ttft_scheduled_p95_s, ttft_scheduled_p99_s,
    e2el_scheduled_s, e2el_scheduled_p50_s, e2el_scheduled_p90_s, e2el_scheduled_p95_s, e2el_scheduled_p99_s,
    output_tokens_per_s, output_tokens_per_s_per_device, total_tokens_per_s, requests_per_s,
    goodput_requests_per_s, goodput_ratio, objectives, other_load_ratio, metric_definitions,
    num_faults, num_doubts, finding,
    run_id IN (SELECT run_id FROM requests) AS has_requests
FROM served
WHERE served_id = $served_id::VARCHAR
    AND ($workload::VARCHAR IS NULL OR workload = $workload::VARCHAR)
    AND ($hardware_ids::VARCHAR[] IS NULL OR list_contains($hardware_ids::VARCHAR[], hardware_id))
    AND (coalesce($with_excluded::BOOLEAN, false) OR NOT is_excluded)
ORDER BY source_kind, device, framework, source_id, num_devices, concurrency, request_rate_per_s, run_id
LIMIT 3000
