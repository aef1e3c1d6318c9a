-- Purpose: what predictors of served loads learn from: every load of a stated number of requests in flight, with its parallel degrees.
--   The silicon sample of aiconfigurator prints some measurements several times, under other degrees and names of LLMs: times equal to
--   the last digit are one measurement. Its degrees are products in part: a device group of 8 that is tensor and expert parallel stands
--   there as 64 with 8 experts' degree (the same times stand elsewhere in it as 8 and 8), one of 4 that is data parallel as 4 x 4 with
--   16. Those are taken apart here; where it prints no degree for experts it means what it says.
-- Grain: one load.
-- Parameters: $disaggregated, true for loads whose prompts have devices of their own (degrees are then those of the devices that decode,
--   and loads that do not say how many decode are left out); $source, a prefix of source ids, NULL for all.
WITH printed AS (
    SELECT
        *,
        coalesce(tensor_parallel, 1) * coalesce(data_parallel, 1) AS width,
        coalesce(expert_parallel, 1) AS experts,
        starts_with(source_id, 'aiconfigurator') AND NOT contains(source_cell, '_epnone') AS is_product,
        num_prefill_devices IS NOT NULL OR (starts_with(source_id, 'aiconfigurator') AND num_devices IS NULL) AS is_disaggregated
    FROM runs
    WHERE phase = 'serve'
        AND source_kind IN ('measured', 'published')
        AND status = 'ok'
        AND NOT is_excluded
        AND ($source::VARCHAR IS NULL OR starts_with(source_id, $source::VARCHAR))
), grouped AS (
    SELECT
        *,
        CASE
            WHEN is_product AND experts > 1 AND width = experts * experts THEN experts
            WHEN is_product AND tensor_parallel > 1 AND tensor_parallel = data_parallel AND experts = width THEN tensor_parallel
            ELSE width
        END AS devices
    FROM printed
    WHERE is_disaggregated = $disaggregated::BOOLEAN
), apart AS (
    SELECT
        *,
        CASE
            WHEN is_disaggregated THEN num_decode_devices // coalesce(tensor_parallel, 1)
            WHEN devices = width THEN coalesce(data_parallel, 1)
            WHEN data_parallel > 1 THEN devices
            ELSE 1
        END AS replicas
    FROM grouped
    WHERE NOT is_disaggregated OR num_decode_devices IS NOT NULL
)
SELECT
    apart.run_id, apart.source_id, apart.source_cell, apart.source_kind, apart.collector,
    apart.llm_id, apart.hardware_id, apart.framework, apart.framework_version, apart.execution,
    apart.weight_dtype, apart.activation_dtype, apart.kv_dtype,
    CASE WHEN is_disaggregated THEN apart.num_devices ELSE devices * coalesce(apart.pipeline_parallel, 1) END AS num_devices,
    CASE WHEN is_disaggregated THEN coalesce(apart.tensor_parallel, 1) ELSE devices // replicas END AS tensor_parallel,
    apart.pipeline_parallel, replicas AS data_parallel, least(experts, devices) AS expert_parallel,
    apart.batch_size, apart.concurrency, apart.input_tokens, apart.output_tokens,
    llms.architecture, llms.family, llms.num_parameters,
    apart.ttft_s AS measured_ttft_s,
    apart.tpot_s AS measured_tpot_s,
    coalesce(apart.e2el_s, apart.ttft_s + (apart.output_tokens - 1) * apart.tpot_s) AS measured_e2el_s
FROM apart
LEFT JOIN llms ON llms.llm_id = apart.llm_id
WHERE apart.concurrency IS NOT NULL AND apart.request_rate_per_s IS NULL
QUALIFY row_number() OVER (
    PARTITION BY
        apart.hardware_id, apart.framework, apart.input_tokens, apart.output_tokens, apart.concurrency, apart.ttft_s, apart.tpot_s,
        CASE WHEN apart.ttft_s IS NULL OR apart.tpot_s IS NULL THEN apart.run_id END
    ORDER BY apart.llm_id IS NULL, devices, apart.framework_version IS NULL, apart.run_id
) = 1
ORDER BY apart.run_id
