"""Everything that patches another library, or reaches into its private parts: one module per library.

Nothing outside this package touches a private name of another library (ruff's SLF001 enforces it). ``pyproject.toml``
bounds each library by the newest minor version that was tested. Each line has a test in ``tests/training/compat/`` that
fails when the patched part is gone, has another signature, or is no longer needed because the library does it itself.

================= ============ ====================================================================== ==================
module            tested       what is touched, and why                                               upstream
================= ============ ====================================================================== ==================
``trl``           1.16         ``GRPOTrainer._generate_and_score_completions``, ``_generate``,        trl#3708, open
                               ``_calculate_rewards``, ``_metrics``: no hook between sampling and
                               the batch, which dynamic sampling needs
``trl``           1.16         ``GRPOTrainer._generate_single_turn``,                                 none known
                               ``_get_per_token_logps_and_entropies``: equal rows are sampled and
                               scored once
``trl``           1.16         ``trainer.beta`` set after construction: with beta in its arguments    trl#4723, by
                               TRL copies the adapter as its reference                                design
``trl``           1.16         ``trainer.utils.ensure_master_addr_port``: a free port for a lone      trl#3979
                               process, before vLLM takes a fixed one
``trl``           1.16         ``vllm_generation.VLLMClient`` replaced: no argument for the client    none known
``peft``          0.21         ``merge_adapter``, ``unmerge_adapter`` replaced on the instance: in    trl#6688, open
                               half precision the base weights drift with each cycle
``peft``          0.21         AdaLoRA's ``rankallocator`` scores and ``rank_pattern``: neither is    peft#432, #1327
                               in a checkpoint
``transformers``  5.17         ``TrainingArguments._n_gpu``: one process that sees several GPUs       none known
                               would wrap the model in ``DataParallel``
``transformers``  5.17         ``callback_handler.callbacks`` reordered: there is no priority         none known
``transformers``  5.17         ``generate`` replaced on the instance, under autocast: TRL trains in   none known
                               mixed precision, and generates without it
``transformers``  5.17         ``prepare_inputs_for_generation`` replaced on the instance: a group    none known
                               reads its prompt once, equal prefixes are computed once
``torch``         2.13         ``distributed_c10d._get_default_store``: the launcher's store has no   none known
                               public accessor
``accelerate``    1.15         ``ACCELERATE_*`` variables: what the launcher was asked for, before    accelerate#2741
                               any state exists
``deepspeed``     none pinned  ``ds_id``, ``ds_shape``, ``_hp_mapping`` of parameters: DeepSpeed has  none known
                               no public test for partitioned parameters
``vllm``          0.31 (CPU)   ``_custom_ops._supports_onednn``, ``utils.check_cpu_sgl_kernel``:      none known
                               packed weights cannot be renewed
================= ============ ====================================================================== ==================

The module ``library_warnings`` matches the texts of harmless warnings of peft and torch.
"""
