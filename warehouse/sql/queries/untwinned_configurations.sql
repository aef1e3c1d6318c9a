-- Purpose: measured and published configurations that have no analytical row of the default ruleset by a revision of the engine yet.
-- Grain: one configuration (its columns as the first of its runs has them).
-- Parameters: $revision, the engine's revision; NULL for any.
SELECT DISTINCT ON (r.config_id)
    r.config_id, r.llm_id, r.hardware_id, r.num_devices, r.tensor_parallel, r.pipeline_parallel, r.data_parallel,
    r.expert_parallel, r.interconnect, r.phase, r.batch_size, r.input_tokens, r.output_tokens, r.context_tokens,
    r.concurrency, r.request_rate_per_s, r.weight_dtype, r.activation_dtype, r.kv_dtype, r.attention, r.optimizations,
    r.prefix_tokens, r.chunk_tokens, r.num_micro_batches, r.optimizer_dtype, r.gradient_dtype, r.lora_rank, r.execution
FROM runs AS r
WHERE r.source_kind IN ('measured', 'published')
  AND r.phase IN ('forward', 'prefill', 'decode', 'generate', 'pretrain_step', 'finetune_step')
  AND r.llm_id IS NOT NULL
  AND r.hardware_id IS NOT NULL
  AND NOT EXISTS (
      SELECT 1 FROM runs AS a
      WHERE a.config_id = r.config_id AND a.source_kind = 'analytical' AND a.ruleset = 'default'
        AND ($revision::VARCHAR IS NULL OR a.engine_revision = $revision::VARCHAR)
  )
ORDER BY r.config_id, r.run_id
