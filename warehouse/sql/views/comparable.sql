-- Purpose: runs as people compare them: names joined in, the words a chart prints, and the analytical bound standing where a
--   measured run has its latency and its rates.
-- Grain: one run.
SELECT
    runs.* REPLACE (
        coalesce(runs.latency_s, CASE WHEN runs.source_kind = 'analytical' THEN runs.roofline_s END) AS latency_s
    ),
    hardware.name AS hardware_name,
    llms.name AS llm_name,
    sources.title AS source_title,
    sources.url AS source_url,
    coalesce(CASE WHEN runs.num_devices > 1 THEN runs.num_devices || ' × ' END, '')
        || coalesce(hardware.name, runs.hardware_id, 'device not stated')
        || CASE WHEN runs.num_devices > 1 AND runs.interconnect IS NOT NULL THEN ' (' || runs.interconnect || ')' ELSE '' END AS device,
    coalesce(runs.batch_size::VARCHAR, 'not stated') AS batch,
    coalesce(
        nullif(concat_ws(
            ', ',
            CASE WHEN runs.input_tokens IS NOT NULL THEN runs.input_tokens || ' in' END,
            CASE WHEN runs.output_tokens IS NOT NULL THEN runs.output_tokens || ' out' END,
            CASE WHEN runs.context_tokens IS NOT NULL THEN runs.context_tokens || ' context' END,
            CASE WHEN runs.concurrency IS NOT NULL THEN runs.concurrency || ' at once' END,
            CASE WHEN runs.request_rate_per_s IS NOT NULL THEN runs.request_rate_per_s || ' requests/s' END
        ), ''),
        'not stated'
    ) AS tokens,
    CASE
        WHEN runs.weight_dtype IS NULL AND runs.activation_dtype IS NULL THEN 'not stated'
        WHEN coalesce(runs.activation_dtype, runs.weight_dtype) = coalesce(runs.weight_dtype, runs.activation_dtype)
            THEN coalesce(runs.weight_dtype, runs.activation_dtype)
        ELSE runs.weight_dtype || ' weights, ' || runs.activation_dtype
    END AS dtype,
    concat_ws(
        ', ',
        runs.framework,
        CASE WHEN runs.attention IS NOT NULL THEN runs.attention || ' attention' END,
        nullif(array_to_string(runs.optimizations, ' + '), ''),
        CASE WHEN runs.tensor_parallel > 1 THEN 'TP ' || runs.tensor_parallel END,
        CASE WHEN runs.pipeline_parallel > 1 THEN 'PP ' || runs.pipeline_parallel END,
        CASE WHEN runs.ruleset IS NOT NULL THEN 'ruleset ' || runs.ruleset END,
        runs.task
    ) AS variant
FROM runs
LEFT JOIN hardware USING (hardware_id)
LEFT JOIN llms USING (llm_id)
LEFT JOIN sources USING (source_id)
