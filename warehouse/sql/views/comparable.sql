-- Purpose: runs as people compare them: names joined in, the words a chart prints, and a bound standing where a measured run
--   has its latency: the analytical one, or the one a source prints in place of a time (`is_bound` says so).
--   Utilisation of measured ceilings is there for rows collected before the ceilings were; ranks that share one processor have none, nor
--   do runs that do not state their number of devices.
--   `number_format` puts dtypes of one width together; `unstated` lists what a source keeps to itself of the workload.
-- Grain: one run.
SELECT
    runs.* REPLACE (
        coalesce(runs.latency_s, CASE WHEN runs.source_kind IN ('analytical', 'published') THEN runs.roofline_s END) AS latency_s,
        CASE
            WHEN runs.source_kind = 'measured' AND NOT (hardware.kind = 'cpu' AND coalesce(runs.num_devices, 1) > 1)
                THEN coalesce(
                    runs.mfu_achievable,
                    runs.flops / (runs.latency_s * runs.num_devices * ceilings.achievable_peak_flops_per_s)
                )
            ELSE runs.mfu_achievable
        END AS mfu_achievable,
        CASE
            WHEN runs.source_kind = 'measured' AND NOT (hardware.kind = 'cpu' AND coalesce(runs.num_devices, 1) > 1)
                THEN coalesce(
                    runs.mbu_achievable,
                    (runs.weight_bytes_read + runs.kv_bytes_read)
                    / (runs.latency_s * runs.num_devices * ceilings.achievable_bandwidth_bytes_per_s)
                )
            ELSE runs.mbu_achievable
        END AS mbu_achievable
    ),
    runs.latency_s IS NULL AND runs.roofline_s IS NOT NULL AND runs.source_kind IN ('analytical', 'published') AS is_bound,
    hardware.name AS hardware_name,
    llms.name AS llm_name,
    sources.title AS source_title,
    sources.url AS source_url,
    list_filter(
        [
            CASE
                WHEN runs.tensor_parallel = runs.num_devices AND runs.num_devices > 1 THEN 'tensor parallel'
                WHEN runs.tensor_parallel > 1 THEN 'tensor parallel ' || runs.tensor_parallel
            END,
            CASE
                WHEN runs.pipeline_parallel = runs.num_devices AND runs.num_devices > 1 THEN 'pipeline parallel'
                WHEN runs.pipeline_parallel > 1 THEN 'pipeline parallel ' || runs.pipeline_parallel
            END,
            CASE
                WHEN runs.expert_parallel = runs.num_devices AND runs.num_devices > 1 THEN 'expert parallel'
                WHEN runs.expert_parallel > 1 THEN 'expert parallel ' || runs.expert_parallel
            END,
            CASE WHEN runs.data_parallel > 1 AND runs.data_parallel < runs.num_devices THEN 'data parallel ' || runs.data_parallel END
        ],
        lambda words: words IS NOT NULL
    ) AS parallelism,
    concat_ws(
        ', ',
        coalesce(CASE WHEN runs.num_devices > 1 THEN runs.num_devices || ' × ' END, '')
            || coalesce(hardware.name, runs.hardware_id, 'device not stated'),
        nullif(array_to_string(parallelism, ' + '), '')
    ) || CASE WHEN runs.num_devices > 1 AND runs.interconnect IS NOT NULL THEN ' (' || runs.interconnect || ')' ELSE '' END AS device,
    coalesce(runs.batch_size::VARCHAR, 'not stated') AS batch,
    list_filter(
        [
            runs.input_tokens || ' in',
            runs.output_tokens || ' out',
            runs.context_tokens || ' context',
            runs.prefix_tokens || ' cached',
            runs.chunk_tokens || ' a chunk',
            runs.concurrency || ' at once',
            runs.request_rate_per_s || ' requests/s'
        ],
        lambda words: words IS NOT NULL
    ) AS token_parts,
    coalesce(nullif(array_to_string(token_parts, ', '), ''), 'not stated') AS tokens,
    CASE
        WHEN runs.weight_dtype IS NULL AND runs.activation_dtype IS NULL THEN 'not stated'
        WHEN coalesce(runs.activation_dtype, runs.weight_dtype) = coalesce(runs.weight_dtype, runs.activation_dtype)
            THEN coalesce(runs.weight_dtype, runs.activation_dtype)
        ELSE runs.weight_dtype || ' weights, ' || runs.activation_dtype
    END AS dtype,
    regexp_replace(regexp_replace(dtype, '\b(fp16|bf16)\b', '16-bit', 'g'), '\b(fp8|int8)\b', '8-bit', 'g') AS number_format,
    list_filter(
        [
            CASE WHEN runs.batch_size IS NULL AND runs.phase <> 'serve' THEN 'batch size' END,
            CASE
                WHEN runs.phase = 'decode' AND runs.context_tokens IS NULL THEN 'tokens'
                WHEN runs.phase NOT IN ('decode', 'microbench') AND runs.input_tokens IS NULL THEN 'tokens'
                WHEN runs.phase IN ('generate', 'serve') AND runs.output_tokens IS NULL THEN 'tokens'
            END,
            CASE WHEN dtype = 'not stated' THEN 'number format' END,
            CASE WHEN runs.num_devices IS NULL THEN 'number of devices' END
        ],
        lambda words: words IS NOT NULL
    ) AS unstated,
    concat_ws(
        ', ',
        runs.framework,
        CASE WHEN runs.attention IS NOT NULL THEN runs.attention || ' attention' END,
        nullif(array_to_string(runs.optimizations, ' + '), ''),
        CASE WHEN runs.lora_rank IS NOT NULL THEN 'rank ' || runs.lora_rank END,
        CASE WHEN runs.num_micro_batches > 1 THEN runs.num_micro_batches || ' micro-batches' END,
        CASE WHEN runs.optimizer_dtype IS NOT NULL THEN runs.optimizer_dtype || ' optimizer' END,
        CASE WHEN runs.gradient_dtype IS NOT NULL THEN runs.gradient_dtype || ' gradients' END,
        CASE WHEN runs.execution IS NOT NULL THEN runs.execution || ' execution' END,
        CASE WHEN runs.cache_implementation <> 'dynamic' THEN runs.cache_implementation || ' cache' END,
        CASE WHEN runs.ruleset IS NOT NULL THEN 'ruleset ' || runs.ruleset END,
        runs.task
    ) AS variant
FROM runs
LEFT JOIN hardware USING (hardware_id)
LEFT JOIN (SELECT * RENAME (dtype AS roof_dtype) FROM ceilings) AS ceilings
    ON ceilings.hardware_id = runs.hardware_id AND ceilings.roof_dtype = coalesce(runs.activation_dtype, runs.weight_dtype)
LEFT JOIN llms USING (llm_id)
LEFT JOIN sources USING (source_id)
