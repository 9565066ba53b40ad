"""Mutants of the package, each one small fault, and the tests that have to fail on it: `python -m tests.mutants`.

The package and the tests are copied to a temporary folder, and the faults are put into the copy. First all the tests
that the mutants name run there without any fault; then each mutant gets its own tests, in a process of its own, forked
from one that has imported torch (`tests/nursery.py`). A mutant that survives is a hole in the tests.
`python -m tests.mutants gamma tape/` takes those with one of the words in their name or file.
"""

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("pyproject.toml", "funcattr", "tests")
LIMIT = 120.0
"""Seconds that the tests of one mutant may take: a fault may leave a loop without an end."""


class Mutant(NamedTuple):
    """A fault of the package.

    Attributes:
        name: What goes wrong.
        file: Where, from the root of the repository.
        old: Text that is there once.
        new: Text in place of it.
        tests: Node ids of pytest, one of which has to fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


TORCHRAY = "tests/compat/torchray"
LANGUAGE = "tests/language/test_explain.py"
SCALE = "tests/scale"
MUTANTS = (
    # methods.edges
    Mutant(
        "a sum stays one when its memory is written",
        "funcattr/methods/edges/stream.py",
        "            self._forget(targets)\n",
        "            pass\n",
        ("tests/methods/edges/test_stream.py::test_terms_and_their_coefficients",),
    ),
    Mutant(
        "what goes on from a source is still the sum of earlier ones",
        "funcattr/methods/edges/stream.py",
        "            self._note(after, itself)\n",
        "            self._note(after, {**self._terms_of(before), **itself})\n",
        ("tests/methods/edges/test_stream.py::test_an_edge_passes_no_other_listed_site",),
    ),
    Mutant(
        "a sink that some source has only a direct effect on gets none",
        "funcattr/methods/edges/passes.py",
        "        pulled = _direct(asked, point, sink) if behind else {}\n",
        "        behind, pulled = [], {}\n",
        ("tests/methods/edges/test_edges.py::test_scores_equal_finite_differences_of_their_definitions",),
    ),
    Mutant(
        "rules see what depends on the sinks alone",
        "funcattr/methods/edges/passes.py",
        "    inputs = pytree.tree_leaves(question.x) if asked.rules.entries else []\n",
        "    inputs: list[Tensor] = []\n",
        ("tests/methods/edges/test_edges.py::test_rules_see_what_depends_on_the_input_beside_the_sites",),
    ),
    Mutant(
        "a cut edge leaves the terms that it should take out",
        "funcattr/methods/edges/circuit.py",
        "coefficient * (copies - now)",
        "coefficient * copies",
        ("tests/methods/edges/test_circuit.py::test_pruned_models_equal_hooks_that_cut_edges",),
    ),
    # scale
    Mutant(
        "nothing stands in the place of an example that cannot be read",
        "funcattr/scale/rows.py",
        "if group is by_size[-1] else []",
        "if group is None else []",
        (f"{SCALE}/test_run.py::test_a_broken_example_has_another_in_its_place",),
    ),
    Mutant(
        "what a batch draws goes on from what was drawn before",
        "funcattr/scale/question.py",
        "        sow(seed, self.device)  # so",
        "        pass  # so",
        (f"{SCALE}/test_run.py::test_draws_do_not_depend_on_whether_scores_are_kept",),
    ),
    Mutant(
        "every batch has the same draws",
        "funcattr/scale/seeds.py",
        'f"{seed} {what} {position}"',
        'f"{seed} {what}"',
        (f"{SCALE}/test_run.py::test_draws_of_models_and_data_are_the_runs_too_and_the_users_are_untouched",),
    ),
    Mutant(
        "an attribution too large for float16 is infinity in the file",
        "funcattr/scale/rows.py",
        "    bad = ~kept.isfinite()\n",
        "    bad = largest.isnan()\n",
        (f"{SCALE}/test_run.py::test_attributions_that_are_not_finite_or_do_not_fit_are_errors",),
    ),
    Mutant(
        "a row of a safetensors file is not compared with its checksum",
        "funcattr/scale/tensor_files.py",
        'if _sum(parts[name].numpy()) != self._said["sums"][name][number]:',
        "if False:",
        (f"{SCALE}/test_tensor_files.py::test_a_byte_that_was_changed_anywhere_is_found",),
    ),
    Mutant(
        "a shard of another run is taken for this one's",
        "funcattr/scale/job.py",
        'if footer.says.get("run") != self.digest or',
        "if",
        (f"{SCALE}/test_run.py::test_shards_without_a_manifest_or_of_another_run_are_refused",),
    ),
    Mutant(
        "a live writer's file is cleared as a dead one's",
        "funcattr/scale/files.py",
        "            if _lock(file.fileno()) and _is_at(file.fileno(), temporary):\n",
        "            if _is_at(file.fileno(), temporary):\n",
        (f"{SCALE}/test_survival.py::test_leftovers_of_the_dead_are_cleared_and_files_of_the_living_stay",),
    ),
    Mutant(
        "a declaration of a rule makes the same rulebook another one in each process",
        "funcattr/scale/description.py",
        '"declared" if type(part) is int and part == id(value) else part',
        "part",
        (f"{SCALE}/test_description.py::test_equal_values_have_one_description_and_others_another",),
    ),
    # language, and the targets that it is built of
    Mutant(
        "a contrast is a sum",
        "funcattr/attribution/built_targets.py",
        'self.parts["target"]) - score(',
        'self.parts["target"]) + score(',
        ("tests/attribution/test_built_targets.py::test_a_contrast_is_a_difference_of_any_two_targets",),
    ),
    Mutant(
        "a span counts from the end of the vocabulary",
        "funcattr/attribution/built_targets.py",
        "torch.where(positions < 0, positions + length, positions)",
        "torch.where(positions < 0, positions + size, positions)",
        ("tests/attribution/test_built_targets.py::test_a_span_is_the_sum_of_its_tokens",),
    ),
    Mutant(
        "a span of one example is that of all",
        "funcattr/attribution/built_targets.py",
        'count = len(self.parts["tokens"])\n        return self.with_parts(lambda p: rows.of(p, count) if',
        'count = len(self.parts["tokens"])\n        return self.with_parts(lambda p: p.repeat(rows.times, 1) if',
        ("tests/attribution/test_built_targets.py::test_what_a_target_has_for_an_example_goes_with_it",),
    ),
    Mutant(
        "the baseline of a text replaces its special tokens",
        "funcattr/language/explain.py",
        "return torch.where(stays.unsqueeze(2), embeds, nothing)",
        "return nothing",
        (f"{LANGUAGE}::test_the_matrix_is_a_loop_over_tokens",),
    ),
    Mutant(
        "nobody checks that a model's embeddings tell what its tokens do",
        "funcattr/language/reader.py",
        "return same_numbers(expected.to(dtype), found.detach().to(dtype), size=0.0)",
        "return True",
        ("tests/language/test_refusals.py::test_a_model_whose_embeddings_tell_another_story_is_refused",),
    ),
    Mutant(
        "a text is explained by the token that it ends with, one too late",
        "funcattr/language/explain.py",
        "first = 0 if roles.encoder else len(item.prompt.ids) - 1",
        "first = 0 if roles.encoder else len(item.prompt.ids) - 2",
        (f"{LANGUAGE}::test_the_scores_and_what_the_model_would_have_said",),
    ),
    Mutant(
        "rows of a group of experts are multiplied by the next one's matrix",
        "funcattr/calls/linear_map.py",
        "F.grouped_mm(cotangent.contiguous(), weight.mT, offs=offs)",
        "F.grouped_mm(cotangent.contiguous(), weight.mT.roll(1, 0), offs=offs)",
        ("tests/calls/test_linear_map.py::test_a_grouped_product_is_one_matrix_for_each_group_of_rows",),
    ),
    # compat.captum
    Mutant(
        "an error of the user's model is about arguments",
        "funcattr/compat/captum/attr/assertions.py",
        " or not _is_ours(error.__traceback__)",
        "",
        ("tests/compat/test_captum_attr.py::test_an_error_of_the_users_model_stays_what_it_is",),
    ),
    Mutant(
        "a noise tunnel runs a method that draws once for each sample",
        "funcattr/compat/captum/attr/noise_tunnel.py",
        "if self.attribution_method.draws:",
        "if not self.attribution_method:",
        ("tests/compat/test_captum_attr.py::test_a_noise_tunnel_calls_a_method_that_draws_once_for_all_samples",),
    ),
    Mutant(
        "Captum's saliency is signed by default",
        "funcattr/compat/captum/attr/gradients.py",
        "abs: bool = True",
        "abs: bool = False",
        ("tests/compat/test_captum_attr.py::test_saliency_is_absolute_and_so_is_its_noise_tunnel",),
    ),
    Mutant(
        "a layer of the user's live model keeps what the call put there",
        "funcattr/compat/captum/attr/located_layers.py",
        'vars(one).pop("forward", None)',
        "pass",
        ("tests/compat/test_captum_attr.py::test_the_users_model_is_as_before_on_errors_too",),
    ),
    Mutant(
        "the deltas of a noise tunnel are those of its check of the batch",
        "funcattr/compat/captum/attr/noise_tunnel.py",
        "deltas.pop()",
        "deltas.pop(0)",
        ("tests/compat/test_captum_attr.py::test_the_noise_tunnels_deltas_are_those_of_the_samples",),
    ),
    Mutant(
        "two perturbations at a time of a model that gives one number for the batch",
        "funcattr/compat/captum/attr/perturbation.py",
        "if together > 1:",
        "if together > 2:",
        ("tests/compat/test_captum_edges.py::test_numbers_for_the_batch_have_one_perturbation_at_a_time",),
    ),
    Mutant(
        "a mask's row of an example is the whole mask",
        "funcattr/compat/captum/attr/shapley.py",
        "target=target), own(covers), own(masks)",
        "target=target), own(covers), masks",
        ("tests/compat/test_captum_edges.py::test_a_batch_is_fitted_example_by_example",),
    ),
    # model
    Mutant(
        "a hook on the outermost wrapper is forgotten",
        "funcattr/model/wrappers.py",
        "            if has_hooks(model):",
        "            if False:",
        ("tests/model/test_wrappers.py::test_names_what_a_wrapper_does_beside",),
    ),
    Mutant(
        "the copy of a wrapper is one of its class",
        "funcattr/model/module_tree.py",
        "kind = Through if is_wrapper(module) else",
        "kind = type(module) if is_wrapper(module) else",
        ("tests/model/test_wrappers.py::test_its_reducer_hears_nothing_of_a_call",),
    ),
    Mutant(
        "a parameter that may be tied to others is bound alone",
        "funcattr/model/functional.py",
        "if own is not None and own.is_meta:",
        "if own is None:",
        ("tests/model/test_accelerate.py::test_gives_what_it_gives_on_the_plain_model",),
    ),
    Mutant(
        "a shard that was written in between is gathered all the same",
        "funcattr/calls/saved_tensors.py",
        "        if self._count(self._source) != self._before:",
        "        if False:",
        ("tests/calls/test_saved_tensors.py::test_what_is_made_again_is_made_of_what_it_was",),
    ),
    Mutant(
        "a tensor parallel model is not compared with its whole",
        "funcattr/model/functional.py",
        "        if structure.is_laid_out:",
        "        if False:",
        ("tests/sharded/test_sharded.py::test_names_what_it_refuses",),
    ),
    Mutant(
        "a part of a site's value is another one",
        "funcattr/model/sites.py",
        "parts[first] = self._with_part_visited(parts[first]",
        "parts[first] = self._with_part_visited(parts[0]",
        ("tests/model/test_parts_of_sites.py::test_read_and_edit_a_part",),
    ),
    Mutant(
        "a module left by an error is not left",
        "funcattr/model/sites.py",
        "if self.left[0] == name:\n                break",
        "break",
        ("tests/model/test_sites.py::test_an_error_that_the_model_catches_leaves_no_module_behind",),
    ),
    Mutant(
        "what a module passes on unwritten is written by it",
        "funcattr/model/other_names.py",
        "if left is not None and self.is_written(old, left):",
        "if left is not None and memory in self._writers:",
        ("tests/model/test_other_names.py::test_what_is_passed_on_unwritten_may_be_read_by_both_names",),
    ),
    Mutant(
        "a write on record leaves the written name alone",
        "funcattr/model/other_names.py",
        "if own is not None and own is not memory:",
        "if False and own is not None:",
        (
            "tests/model/test_other_names.py"
            "::test_a_method_gives_what_it_gives_on_the_same_function_without_the_write[edit by a method-both]",
            "tests/model/test_other_names.py"
            "::test_a_method_gives_what_it_gives_on_the_same_function_without_the_write[edit by a rule-both]",
        ),
    ),
    Mutant(
        "a site goes on from what the module returns alone",
        "funcattr/tape/recorder.py",
        "                self._aliases.follow(before, leaves[place])\n            else:",
        "                self._memories.pair(before, leaves[place])\n            else:",
        ("tests/model/test_other_names.py::test_every_way_to_write[ours-adds]",),
    ),
    Mutant(
        "an edited model forgets what is added to its sites",
        "funcattr/model/functional.py",
        "FunctionalModel(structure, self.bound, shifts=self.shifts)",
        "FunctionalModel(structure, self.bound)",
        ("tests/model/test_functional.py::test_what_is_added_to_sites_stays_when_a_model_is_bound_or_edited",),
    ),
    Mutant(
        "a forward on the instance does not run",
        "funcattr/model/module_tree.py",
        "if patched is None else patched(*args, **kwargs)",
        "if True else patched",
        ("tests/model/test_private_copies.py::test_a_forward_that_is_put_on_the_instance_runs_on_the_copy",),
    ),
    Mutant(
        "the user's tensors may be read",
        "funcattr/model/guard.py",
        "        if not users.isdisjoint(map(id, values)):",
        "        if False:",
        ("tests/model/test_private_copies.py::test_a_tensor_that_is_reached_past_the_copy_is_refused_by_name",),
    ),
    Mutant(
        "a parameter is written where it is",
        "funcattr/model/guard.py",
        "        move_to_a_copy([*names, target])",
        "        pass",
        ("tests/model/test_private_copies.py::test_what_a_forward_writes_stays_with_the_call",),
    ),
    Mutant(
        "statistics that a call writes in a place of its own are not noted",
        "funcattr/model/guard.py",
        "if id(tensor) in self._tensors or not has_own_memory(tensor):",
        "if not has_own_memory(tensor):",
        ("tests/model/test_folding.py::test_a_tensor_of_a_pair_that_a_later_call_writes_counts",),
    ),
    Mutant(
        "calls that a mode makes itself are folded",
        "funcattr/model/sites.py",
        "        self.fold = None  # what a mode calls on its own account is no call of the model",
        "        pass",
        ("tests/model/test_folding.py::test_what_a_decomposition_calls_is_no_call_of_the_model",),
    ),
    Mutant(
        "functions keep the modules that they close over",
        "funcattr/copies.py",
        "if not any(self._is_moved(held) for held in held_by(value)):",
        "if True:",
        ("tests/model/test_private_copies.py::test_what_is_bound_is_used_however_a_module_is_reached",),
    ),
    Mutant(
        "buffers that share memory are cloned apart",
        "funcattr/model/aliased.py",
        "        elif len(names) > 1:",
        "        elif False:",
        ("tests/model/test_private_copies.py::test_what_a_forward_writes_stays_with_the_call",),
    ),
    Mutant(
        "a batch norm is folded into a map whose result others read too",
        "funcattr/model/folding.py",
        "if r.readers == 1 and",
        "if r.readers >= 1 and",
        ("tests/model/test_folding.py::test_what_something_else_depends_on_is_not_folded",),
    ),
    Mutant(
        "a batch norm is folded over the head of who asks for the value before it",
        "funcattr/model/folding.py",
        "if alike and not asked(mode.wants(name) for mode in asking for name in pair.sites)",
        "if alike",
        ("tests/model/test_folding.py::test_every_site_has_the_value_that_it_has_in_the_model",),
    ),
    Mutant(
        "a batch norm that has a rule of its own is folded",
        "funcattr/model/folding.py",
        "if alike and not asked(",
        "if not asked(",
        ("tests/model/test_folding.py::test_a_rulebook_that_tells_batch_norms_apart_gets_them_unfolded",),
    ),
    Mutant(
        "what is checkpointed is folded",
        "funcattr/model/folding.py",
        "if saved_hooks() == self._saved_hooks else None",
        "if self._pairs else None",
        ("tests/model/test_folding.py::test_an_odd_use_gives_what_it_gives_unfolded_or_is_refused[checkpointed]",),
    ),
    Mutant(
        "data that is set is folded as it was",
        "funcattr/model/folding.py",
        'if told.name == "__set__":',
        "if False:",
        ("tests/model/test_folding.py::test_an_odd_use_gives_what_it_gives_unfolded_or_is_refused[other data]",),
    ),
    # calls
    Mutant(
        "the adjoint of a batch norm without its weight",
        "funcattr/calls/adjoints.py",
        "scale = scale if weight is None else scale * weight",
        "scale = scale if weight is None else scale",
        ("tests/calls/test_adjoints.py::test_other_operations",),
    ),
    Mutant(
        "the bias of addmm is a factor",
        "funcattr/calls/kinds.py",
        '_BIAS.get(op, "bias")',
        '"bias"',
        ("tests/calls/test_kinds.py::test_the_added_matrix_of_addmm_is_no_factor_of_a_linear_map",),
    ),
    Mutant(
        "a view shows the part that ends where it begins",
        "funcattr/calls/parts.py",
        "start <= last and first < p.end",
        "start <= last and first <= p.end",
        ("tests/calls/test_parts.py::test_slices_have_their_own_part_alone",),
    ),
    Mutant(
        "a gate in a matrix product is a factor",
        "funcattr/rules/products.py",
        "parts = shares(call.origins)",
        "parts = [1 / len(call.operands)] * len(call.operands)",
        ("tests/rules/test_products.py::test_a_gate_in_a_matrix_product_leaves_all_to_the_signals",),
    ),
    Mutant(
        "a wrapper of a rule declares what the rule does",
        "funcattr/calls/declarations.py",
        "return getattr(rule, declaration, None) == id(rule)",
        "return getattr(rule, declaration, None) is not None",
        ("tests/tape/test_let_go.py::test_a_wrapper_of_a_rule_does_not_inherit_what_the_rule_declares",),
    ),
    Mutant(
        "every hardtanh is a relu",
        "funcattr/calls/operations.py",
        '"hardtanh": (("min_val", -1.0),),',
        '"hardtanh": (("min_val", 0.0),),',
        ("tests/rulebook/test_rulebook.py::test_operations_that_may_be_relus_are_named_as_they_are",),
    ),
    Mutant(
        "a saved tensor may be written",
        "funcattr/calls/saved_tensors.py",
        "if version(self._tensor) != self._before:",
        "if False:",
        ("tests/calls/test_saved_tensors.py::test_a_constant_that_is_written_after_it_was_read",),
    ),
    # rulebook
    Mutant(
        "the left rulebook of | comes first",
        "funcattr/rulebook/rulebook.py",
        "return Rulebook(rows + self.entries, name=self.name, **options)",
        "return Rulebook(self.entries + rows, name=self.name, **options)",
        ("tests/rulebook/test_rulebook.py::test_or_puts_the_right_rulebook_first_and_keeps_the_lefts_settings",),
    ),
    Mutant(
        "an exclusive condition lets other ways pass",
        "funcattr/rulebook/conditions.py",
        "pending.clear()",
        "pass",
        ("tests/methods/relevance/test_conditional.py::test_exclusive_leaves_out_what_goes_beside_the_site",),
    ),
    Mutant(
        "cotangents of a wrong shape are taken",
        "funcattr/rulebook/actions.py",
        "if len(result) != len(shapes) or tuple(given) != shapes:",
        "if len(result) != len(shapes):",
        ("tests/tape/test_record.py::test_a_rule_that_returns_the_wrong_thing_is_named",),
    ),
    # rules
    Mutant(
        "a difference is a sum",
        "funcattr/rules/sums.py",
        "else (1, -1)",
        "else (1, 1)",
        ("tests/test_relevance_operations.py::test_operations_equal_the_slow_reference[sub]",),
    ),
    Mutant(
        "the stabilizer of a negative z is positive",
        "funcattr/rules/stabilizer.py",
        "signed = torch.copysign(z.new_full((), eps), sides)",
        "signed = torch.full_like(z.detach(), eps)",
        ("tests/rules/test_stabilizer.py::test_moves_away_from_zero_on_either_side",),
    ),
    Mutant(
        "zeros of what is multiplied after a sum keep their sign",
        "funcattr/calls/linear_map.py",
        '_PLAIN_SUMS = frozenset({"linear", "matmul"})',
        '_PLAIN_SUMS = frozenset({"linear", "matmul", "addmm"})',
        ("tests/rules/test_stabilizer.py",),
    ),
    Mutant(
        "the features of a product's right factor are its last dimension",
        "funcattr/calls/contracted.py",
        "else (-2,)",
        "else (-1,)",
        ("tests/calls/test_contracted.py",),
    ),
    Mutant(
        "an edit in a checkpointed part is lost in the reverse pass",
        "funcattr/model/editing.py",
        "if torch.is_grad_enabled() and has_graph and not any(mode.saves for mode in site_modes()):",
        "if False:",
        ("tests/model/test_editing.py",),
    ),
    Mutant(
        "a target is tokenised as a source",
        "funcattr/language/texts.py",
        "if target and tells_targets else",
        "if not target and tells_targets else",
        ("tests/language/test_texts.py",),
    ),
    Mutant(
        "an output may have any number of rows",
        "funcattr/attribution/example_dims.py",
        "if output.shape[:1] == (examples,):",
        "if output.ndim:",
        ("tests/attribution/test_rows_of_outputs.py",),
    ),
    Mutant(
        "gamma favours its negative weights by gamma alone",
        "funcattr/rules/linear.py",
        "torch.lerp(positive_weight, weight, 1 + gamma)",
        "torch.lerp(positive_weight, weight, gamma)",
        ("tests/rules/test_table.py::test_a_rule_does_what_is_written_down[gamma]",),
    ),
    Mutant(
        "the bounds of z-box change places",
        "funcattr/rules/first_layer.py",
        "(-like * _per_channel(high, layer), weight.clamp(max=0)),",
        "(-like * _per_channel(high, layer), weight.clamp(min=0)),",
        ("tests/rules/test_table.py::test_a_rule_does_what_is_written_down[z_box]",),
    ),
    Mutant(
        "an activation at zero has the slope 1",
        "funcattr/rules/gradient_space.py",
        "factor = torch.where(is_zero, slope,",
        "factor = torch.where(is_zero, 1.0,",
        ("tests/test_relevance_operations.py::test_operations_equal_the_slow_reference[at zero]",),
    ),
    Mutant(
        "causal attention does not see its own token",
        "funcattr/attention.py",
        "device=query.device).triu(1 + first)",
        "device=query.device).triu(first)",
        ("tests/test_relevance_operations.py::test_operations_equal_the_slow_reference[attention causal]",),
    ),
    Mutant(
        "the scores of fused attention are not a product",
        "funcattr/rules/whole_attention.py",
        "{name: of_weights * part for",
        "{name: of_weights for",
        ("tests/rules/test_whole_attention.py::test_attnlrp_is_autograd_times_powers_of_a_half",),
    ),
    Mutant(
        "fused attention does not ask for the rule of its softmax",
        "funcattr/rules/whole_attention.py",
        'softmax = action_of("softmax", False) if weighted else STOP',
        "softmax = GRADIENT if weighted else STOP",
        ("tests/rules/test_whole_attention.py::test_a_rule_of_its_operations_is_met",),
    ),
    Mutant(
        "a pullback through fused attention is differentiated as if it were a constant",
        "funcattr/rules/whole_attention.py",
        "if current_level() != self.level or (g.requires_grad and torch.is_grad_enabled()):",
        "if current_level() != self.level:",
        ("tests/rules/test_whole_attention.py::test_a_pullback_can_be_differentiated_by_its_cotangent",),
    ),
    Mutant(
        "a product of attention with one tracked factor is no linear map",
        "funcattr/rules/whole_attention.py",
        "return [count == 1 for count in",
        "return [False for count in",
        (
            "tests/rules/test_whole_attention.py"
            "::test_a_linear_product_of_attention_may_be_the_first_map_or_take_its_activation_in",
        ),
    ),
    Mutant(
        "a block of queries sees the future",
        "funcattr/rules/whole_attention.py",
        '"first": rows.start}',
        '"first": 0}',
        ("tests/rules/test_whole_attention.py::test_blocks_of_queries_equal_the_whole",),
    ),
    Mutant(
        "a frozen layer norm does not centre",
        "funcattr/rules/normalization.py",
        "g = (g - g.mean(norm.dims, keepdim=True)) * scale",
        "g = g * scale",
        ("tests/rules/test_table.py::test_a_rule_does_what_is_written_down[affine]",),
    ),
    # attention weights and several sites
    Mutant(
        "a row with nothing to attend to shows weights",
        "funcattr/attention.py",
        "weights = shown(weights if dead is None else weights.masked_fill(dead, 0.0))",
        "weights = shown(weights)",
        ("tests/model/test_attention_weights.py::test_a_row_with_nothing_to_attend_to_has_no_weights",),
    ),
    Mutant(
        "the gradient at a site ends at the next one",
        "funcattr/tape/site_leaf.py",
        "before.view_as(before) if before.requires_grad else",
        "",
        ("tests/attribution/test_several_sites.py::test_the_gradient_runs_the_model_once",),
    ),
    Mutant(
        "a marked site gives the cotangent of what it gave back",
        "funcattr/tape/record.py",
        "passing[step.outputs[0].slot] = arrived[0]",
        "passing[step.outputs[0].slot] = 2 * arrived[0]",
        ("tests/attribution/test_several_sites.py::test_the_gradient_on_record_and_by_autograd[True]",),
    ),
    Mutant(
        "rules at several sites share a pass",
        "funcattr/attribution/reverse.py",
        "if question.layers and (options.rules.entries or",
        "if question.layers and (",
        ("tests/attribution/test_several_sites.py::test_a_rule_sees_which_operands_depend_on_the_site",),
    ),
    Mutant(
        "a pattern's star crosses a dot",
        "funcattr/model/functional.py",
        '"[^.]*"',
        '".*"',
        ("tests/attribution/test_several_sites.py::test_patterns_are_names_of_modules",),
    ),
    Mutant(
        "an edit made inside compiled code is dropped",
        "funcattr/attribution/compiled.py",
        "if fm.structure.traced and fm.structure.edits:",
        "if False:",
        ("tests/attribution/test_several_sites.py::test_an_edit_made_inside_compiled_code_is_refused",),
    ),
    Mutant(
        "attention is relevant where its gradient is negative",
        "funcattr/methods/attention/attention_relevance.py",
        "(weights * g).clamp(min=0).mean(1)",
        "(weights * g).mean(1)",
        ("tests/methods/attention/test_attention_methods.py::test_relevance_is_that_of_chefer[bert]",),
    ),
    Mutant(
        "every layer is read from the last block",
        "funcattr/methods/attention/legrad.py",
        "model=_read_from(whole, block, named[-1])",
        "model=whole",
        ("tests/methods/attention/test_attention_methods.py::test_legrad_reads_each_block_by_the_head[bert]",),
    ),
    # rules/multipliers
    Mutant(
        "the square in a norm's scale has half its slope",
        "funcattr/rules/multipliers/norms.py",
        "of_s * slope * 2 * mean / count",
        "of_s * slope * mean / count",
        ("tests/rules/multipliers/test_norms.py::test_a_layer_norm_by_hand",),
    ),
    Mutant(
        "RevealCancel takes one start",
        "funcattr/rules/multipliers/reveal_cancel.py",
        "starts = (z0, z0 + other)",
        "starts = (z0, z0)",
        ("tests/rules/multipliers/test_reveal_cancel.py::test_two_sides_of_a_relu_by_hand",),
    ),
    # relevance in proportion
    Mutant(
        "what arrives through any activation is thought to arrive through a relu",
        "funcattr/rules/products.py",
        'if call.op == "relu" and bound is None:',
        "if bound is None:",
        ("tests/tape/test_proportional.py::test_what_is_known_of_the_relevance_that_arrives",),
    ),
    Mutant(
        "a relu with an upper bound is thought to be max(z, 0)",
        "funcattr/rules/products.py",
        'bound = upper_bound(call) if call.op == "relu" else None',
        "bound = None",
        ("tests/tape/test_proportional.py::test_what_is_known_changes_no_number",),
    ),
    Mutant(
        "a value that a relu and another call read is thought to be a relu's alone",
        "funcattr/calls/proportional.py",
        "rectified = first.rectified and second.rectified",
        "rectified = first.rectified or second.rectified",
        ("tests/tape/test_proportional.py::test_a_mixture_of_rules_gives_the_same",),
    ),
    Mutant(
        "a value and its relu are thought to be one factor",
        "funcattr/calls/proportional.py",
        "second.x is not None and first.rectified == second.rectified",
        "second.x is not None",
        ("tests/tape/test_proportional.py::test_what_is_known_changes_no_number",),
    ),
    Mutant(
        "a g that two terms share is written over",
        "funcattr/rules/sums.py",
        "proportional(x, g, owned=alone or g is not flow)",
        "proportional(x, g, owned=True)",
        ("tests/tape/test_proportional.py::test_what_is_known_changes_no_number",),
    ),
    Mutant(
        "relevance that somebody looks at on the way is not multiplied",
        "funcattr/tape/walk.py",
        "tells_more = observer is None and conditions is None and not asked",
        "tells_more = conditions is None and not asked",
        ("tests/tape/test_proportional.py::test_what_is_known_of_the_relevance_that_arrives",),
    ),
    Mutant(
        "what wraps a rule knows what the rule does",
        "funcattr/calls/declarations.py",
        ' if getattr(rule, "takes_proportional", None) == id(rule) else None',
        "",
        ("tests/tape/test_proportional.py::test_what_wraps_a_rule_knows_numbers_only",),
    ),
    Mutant(
        "a class of one's own is thought to do what its formula does",
        "funcattr/rules/parametric.py",
        "if type(self).__call__ is not Parametric.__call__:",
        "if False:",
        ("tests/tape/test_proportional.py::test_a_class_of_ones_own_gives_what_it_gives",),
    ),
    Mutant(
        "relevance in proportion to another operand is thought to be so to the map's own",
        "funcattr/rules/parametric.py",
        "return given if layer.x is x else multiplied(given)",
        "return given",
        ("tests/tape/test_proportional.py::test_a_split_may_put_other_operands_in_the_map",),
    ),
    Mutant(
        "an elu of another scale is thought to be a relu",
        "funcattr/calls/operations.py",
        "not isinstance(scale, Tensor) and scale == 1",
        "True",
        ("tests/tape/test_proportional.py::test_what_is_known_changes_no_number",),
    ),
    Mutant(
        "factors are added that half precision cannot hold",
        "funcattr/calls/proportional.py",
        "if both_factored and first.dtype != torch.float16:",
        "if both_factored:",
        ("tests/tape/test_proportional.py::test_a_sum_of_factors_that_half_precision_cannot_hold_is_none",),
    ),
    Mutant(
        "gamma takes a bias that it ignores for a part of z",
        "funcattr/rules/linear.py",
        "if layer.is_rectified and own is layer.bias:",
        "if layer.is_rectified:",
        ("tests/tape/test_proportional.py::test_what_is_known_changes_no_number",),
    ),
    Mutant(
        "epsilon's denominator may be zero where no relevance arrives",
        "funcattr/rules/linear.py",
        "z, sign = (layer.z, 0) if layer.rectified is None else (layer.rectified, 1)",
        "z, sign = (layer.z, 0) if layer.rectified is None else (layer.z, 1)",
        ("tests/tape/test_proportional.py::test_values_at_zero_and_at_the_stabilizer_give_the_same",),
    ),
    # tape
    Mutant(
        "a cotangent that comes second replaces the first",
        "funcattr/tape/walk.py",
        "cotangents[slot] = add(multiplied(g), multiplied(before))",
        "cotangents[slot] = multiplied(g)",
        ("tests/tape/test_recorder.py::test_repeated_operands_get_a_cotangent_each",),
    ),
    Mutant(
        "a cotangent that is passed on twice is written over",
        "funcattr/tape/walk.py",
        "own.add if step.owned and len(results) == 1 else own.discard",
        "own.add",
        ("tests/tape/test_walk.py::test_only_what_nobody_else_holds_is_written_over",),
    ),
    Mutant(
        "what wraps a rule writes over as the rule does",
        "funcattr/calls/declarations.py",
        "return over if owner == id(rule) else None",
        "return over",
        ("tests/tape/test_walk.py::test_what_wraps_a_rule_has_no_form_that_writes_over",),
    ),
    Mutant(
        "partners may have other operands",
        "funcattr/tape/pairing.py",
        "if slots != expected or not _alike(call, partner):",
        "if not _alike(call, partner):",
        ("tests/tape/test_pairing.py::test_other_values_on_the_way_are_named",),
    ),
    Mutant(
        "a view of a written tensor is not out of date",
        "funcattr/tape/aliases.py",
        "if memory is None or self._memories.of(value) is not memory:",
        "if memory is None:",
        ("tests/tape/test_writes.py::test_a_write_through_a_view_that_is_read_elsewhere_is_refused",),
    ),
    Mutant(
        "a place between two others overlaps neither",
        "funcattr/calls/memories.py",
        "return bool((_bytes(one, first, last) & _bytes(other, first, last)).any())",
        "return False",
        ("tests/calls/test_memories.py::test_two_places_overlap_if_they_share_a_byte",),
    ),
    Mutant(
        "a tensor that was made where nobody looked is a constant",
        "funcattr/tape/tracked.py",
        "return (entry is not None and entry[0]() is tensor) or self._memory(tensor) is not None",
        "return entry is not None and entry[0]() is tensor",
        ("tests/calls/test_memories.py::test_written_names_stand_for_their_new_values",),
    ),
    Mutant(
        "another thread finds plain tensors",
        "funcattr/tape/tracked.py",
        "tensor.__class__ = self._kind",
        "pass",
        ("tests/tape/test_followed.py::test_a_branch_in_another_thread_is_refused",),
    ),
    Mutant(
        "arguments are in the table's order",
        "funcattr/calls/operations.py",
        "    if own is None:",
        "    if True:",
        ("tests/calls/test_spellings.py::test_rules_read_the_right_arguments_of_each_spelling",),
    ),
    Mutant(
        "a batch norm reads what the map before it gives",
        "funcattr/tape/recompute.py",
        "if tuple(out.slot for out in before.outputs) == inputs and before.call.can_run_again:",
        "if before.call.can_run_again:",
        ("tests/tape/test_recompute.py::test_a_batch_norm_reads_its_own_operand_and_not_what_the_map_before_it_gives",),
    ),
    # tape/rewrites
    Mutant(
        "the rows of a transposed convolution are its outputs",
        "funcattr/calls/folded.py",
        "(_of_groups(scale, weight, groups) if transposed else _of_rows(scale, weight))",
        "_of_rows(scale, weight)",
        ("tests/tape/rewrites/test_fold.py::test_grouped_transposed_convolutions_fold",),
    ),
    Mutant(
        "a batch norm with another reader passes on what arrives",
        "funcattr/tape/rewrites/resolve.py",
        "if merged and len(merged) == len(readers) and slot not in outputs:",
        "if merged and slot not in outputs:",
        (
            "tests/tape/rewrites/test_fold.py::"
            "test_a_norm_that_a_map_and_something_else_read_stands_alone_for_the_other",
        ),
    ),
    Mutant(
        "multiples of one value are an activation",
        "funcattr/tape/rewrites/functions.py",
        "    if len(affine) == len(region.steps):",
        "    if False:",
        (
            "tests/rules/test_spellings.py::"
            "test_a_sum_that_fans_out_and_meets_keeps_the_share_of_its_constant[multiples]",
        ),
    ),
    Mutant(
        "the constant of the largest of some sums has no share",
        "funcattr/tape/rewrites/functions.py",
        "len(pieces) == len(region.steps) and any(part.adds for part in pieces)",
        "False",
        (
            "tests/rules/test_spellings.py::"
            "test_a_sum_that_fans_out_and_meets_keeps_the_share_of_its_constant[a maximum]",
        ),
    ),
    Mutant(
        "a bias beside an activation is a part of it",
        "funcattr/tape/rewrites/functions.py",
        "return any(i in affine and parts[i].adds_a_bias for i in pending)",
        "return False",
        ("tests/rules/test_spellings.py::test_a_bias_beside_an_activation_is_no_part_of_it[silu]",),
    ),
    Mutant(
        "an inverse stays one when it is written",
        "funcattr/tape/rewrites/flow.py",
        "found is not None and found[1] == version(value)",
        "found is not None",
        ("tests/tape/rewrites/test_softmax.py::test_what_is_no_softmax_is_none[an inverse that is written]",),
    ),
    Mutant(
        "constants are told apart when somebody asks",
        "funcattr/tape/rewrites/flow.py",
        "None if is_plain else _arguments(part)",
        "None",
        ("tests/tape/rewrites/test_softmax.py::test_what_is_no_softmax_is_none[a constant written before]",),
    ),
    Mutant(
        "two draws are one",
        "funcattr/tape/rewrites/flow.py",
        "if node.op in _DRAWING:",
        "if False:",
        ("tests/tape/rewrites/test_softmax.py::test_what_is_no_softmax_is_none[another mask]",),
    ),
    Mutant(
        "a product with weights only adds up",
        "funcattr/tape/rewrites/softmax.py",
        "return bool(factors) and all(",
        "return True or all(",
        ("tests/tape/rewrites/test_softmax.py::test_what_is_no_softmax_is_none[weights]",),
    ),
    Mutant(
        "a softmax that is a constant has a derivative for what comes after it",
        "funcattr/tape/recorder.py",
        "stops = softmax is not None and",
        "stops = False and",
        ("tests/tape/rewrites/test_softmax.py::test_a_softmax_that_is_a_constant_takes_no_relevance[cp_lrp]",),
    ),
    # attribution
    Mutant(
        "pointing at a class beside infinite ones is NaN",
        "funcattr/attribution/targets.py",
        "torch.where(hot == 0, torch.zeros_like(output), output * hot).sum(1)",
        "(output * hot).sum(1)",
        ("tests/attribution/test_targets.py::test_pointing_at_a_class_beside_infinite_ones",),
    ),
    Mutant(
        "an edit's tensors get no derivative",
        "funcattr/attribution/reverse.py",
        "or structure.edits or",
        "or",
        ("tests/attribution/test_reverse.py::test_a_gradient_has_a_derivative_by_what_requires_one",),
    ),
    Mutant(
        "arguments of the model do not go along with copies",
        "funcattr/attribution/question.py",
        "args, kwargs = along((self.args, self.kwargs), self.examples, change)",
        "args, kwargs = self.args, self.kwargs",
        ("tests/attribution/test_question.py::test_copies_get_their_examples_targets_and_keywords",),
    ),
    Mutant(
        "a complex number contributes z g",
        "funcattr/attribution/contribution.py",
        "(value * g.conj()).real",
        "(value * g).real",
        ("tests/attribution/test_contribution.py::test_of_a_linear_map_it_is_what_each_number_adds",),
    ),
    # sampling
    Mutant(
        "a baseline is not broadcast",
        "funcattr/sampling/baselines.py",
        'return cast_like(f"{call}(baseline=...)", baseline, value).expand_as(value)',
        'return cast_like(f"{call}(baseline=...)", baseline, value)',
        ("tests/sampling/test_baselines.py::test_a_baseline_has_the_inputs_shape_and_dtype",),
    ),
    Mutant(
        "all samples have one key",
        "funcattr/sampling/draws.py",
        "sample * 0x9E3779B1",
        "0",
        ("tests/sampling/test_draws.py::test_seeds_streams_and_samples_have_numbers_of_their_own",),
    ),
    Mutant(
        "relative noise is in units of the maximum",
        "funcattr/sampling/noise.py",
        "value.amax(trailing, keepdim=True) - value.amin(trailing, keepdim=True)",
        "value.amax(trailing, keepdim=True)",
        ("tests/methods/gradient/test_noise_tunnel.py::test_relative_is_a_share_of_each_examples_range",),
    ),
    # methods/gradient
    Mutant(
        "vargrad forgets the distance between chunks",
        "funcattr/methods/gradient/moments.py",
        "s + t + b, carry[2]",
        "s + t, carry[2]",
        ("tests/methods/gradient/test_noise_tunnel.py::test_one_seed_gives_one_result_at_any_chunk_size",),
    ),
    Mutant(
        "Grad-CAM is not rectified",
        "funcattr/methods/gradient/grad_cam.py",
        "over_positions(g).mean(2), relu)",
        "over_positions(g).mean(2), False)",
        ("tests/test_families.py::test_maps_have_the_layers_size_and_equal_the_reference[vgg]",),
    ),
    # methods/paths
    Mutant(
        "the line at a site begins at the site's value",
        "funcattr/methods/paths/lines.py",
        "shift = values - as_batch(root.unsqueeze(1), question.examples, count)",
        "shift = values",
        ("tests/methods/paths/test_integrated_gradients.py::test_at_a_site_it_is_that_of_the_rest_of_the_model",),
    ),
    # methods/relevance
    Mutant(
        "each batch counts its examples from zero",
        "funcattr/methods/relevance/conditional.py",
        "index = torch.arange(start, start + scores.shape[1]",
        "index = torch.arange(0, scores.shape[1]",
        ("tests/methods/relevance/test_conditional.py::test_maximization_equals_brute_force",),
    ),
    Mutant(
        "DeepLIFT gives the multipliers",
        "funcattr/methods/relevance/deep_lift.py",
        "lambda x, x0, m: contribution(x - x0, m)",
        "lambda x, x0, m: contribution(x, m)",
        ("tests/methods/relevance/test_deep_lift.py::test_a_linear_model_by_its_weights",),
    ),
    # methods/extremal
    Mutant(
        "dampening is left out",
        "funcattr/methods/extremal/mask_search.py",
        "(1 - search.dampening) * gradient",
        "gradient",
        ("tests/methods/extremal/test_extremal_perturbation.py::test_a_step_equals_the_formula",),
    ),
    Mutant(
        "a class of a spatial output is its sum over space",
        "funcattr/methods/extremal/rewards.py",
        "/ (_positions(output) if is_class(target) else 1)",
        "",
        (
            "tests/methods/extremal/test_extremal_perturbation.py::"
            "test_a_class_of_a_spatial_output_is_its_mean_over_space",
        ),
    ),
    Mutant(
        "copies of an image that see each other are let pass",
        "funcattr/methods/extremal/extremal_perturbation.py",
        'if len(areas) > 1 or variant == "dual":',
        "if False:",
        (
            "tests/attribution/test_example_dims.py::"
            "test_no_method_puts_copies_beside_each_other_that_see_each_other[extremal_perturbation]",
        ),
    ),
    Mutant(
        "rows of one half only are changed when a reward is checked",
        "funcattr/attribution/separate_rows.py",
        "for digit in range(((len(output) - 1) // together).bit_length()):",
        "for digit in range(1):",
        ("tests/attribution/test_separate_rows.py::test_a_function_that_sees_other_rows_is_refused",),
    ),
    # methods/bottleneck
    Mutant(
        "a head that asks for a value and hides the error is run by form",
        "funcattr/methods/bottleneck/by_form.py",
        "        except BaseException:  # which the model may catch",
        "        except KeyboardInterrupt:",
        ("tests/methods/bottleneck/test_head_and_tail.py::test_what_python_asks_of_the_head_it_is_told[an error]",),
    ),
    Mutant(
        "the forms of strides and memory are enough for Python",
        "funcattr/methods/bottleneck/by_form.py",
        "if told.name not in OF_FORM and not all(",
        "if False and not all(",
        ("tests/methods/bottleneck/test_by_form.py::test_what_asks_for_more_is_noted_whatever_becomes_of_the_error",),
    ),
    Mutant(
        "a tensor that is written in a head run by form is what it was",
        "funcattr/methods/bottleneck/by_form.py",
        "any(form_of(t) is None for t in written)",
        "False",
        ("tests/methods/bottleneck/test_by_form.py::test_what_asks_for_more_is_noted_whatever_becomes_of_the_error",),
    ),
    Mutant(
        "draws of a head run by form are drawn again",
        "funcattr/methods/bottleneck/head_and_tail.py",
        "if head is None or drew else",
        "if head is None else",
        ("tests/methods/bottleneck/test_head_and_tail.py::test_draws_of_the_tail_are_drawn_once_a_call",),
    ),
    Mutant(
        "information is in nats",
        "funcattr/methods/bottleneck/flow.py",
        "return nats / math.log(2)",
        "return nats",
        ("tests/methods/bottleneck/test_bottleneck.py::test_capacity_is_the_divergence_in_bits",),
    ),
    Mutant(
        "the bits are of a step too many",
        "funcattr/methods/bottleneck/iba.py",
        "return (*after, state[0].clone()), tuple",
        "return (*after, after.value.clone()), tuple",
        ("tests/methods/bottleneck/test_iba.py::test_equals_the_reference_step_by_step",),
    ),
    Mutant(
        "one step forgets to cut at zero",
        "funcattr/methods/bottleneck/flow.py",
        "rectified = relu or statistics",
        "rectified = statistics",
        ("tests/methods/bottleneck/test_bottleneck.py::test_one_step_is_that_of_the_formulas",),
    ),
    # compat/iba
    Mutant(
        "a hook stays on the layer",
        "funcattr/compat/iba/bottleneck.py",
        "hooks.callback(handle.remove)",
        "pass",
        ("tests/compat/iba/test_bottleneck.py::test_the_model_is_as_it_was",),
    ),
    Mutant(
        "the model's parameters get a .grad",
        "funcattr/compat/iba/bottleneck.py",
        "loss.backward(inputs=[alpha])",
        "loss.backward()",
        ("tests/compat/iba/test_bottleneck.py::test_the_model_is_as_it_was",),
    ),
    Mutant(
        "the map is not mirrored at its border",
        "funcattr/compat/iba/saliency_map.py",
        "- 0.5\n",
        "- 0.5\n    at = at.clamp(0, length - 1)\n",
        ("tests/compat/iba/test_saliency_map.py::test_bits_are_spread_as_scikit_image_resizes",),
    ),
    # compat/tensorwatch
    Mutant(
        "the stabiliser of rare units is that of the others",
        "funcattr/rules/tensorwatch.py",
        "1 / abs(weight) if weight else 1.0",
        "1.0",
        ("tests/compat/tensorwatch/test_innvestigate.py::test_the_b_rule_is_tensorwatchs",),
    ),
    Mutant(
        "Grad-CAM looks at what comes out of the layer",
        "funcattr/compat/tensorwatch/saliency.py",
        '@input")',
        '")',
        ("tests/compat/tensorwatch/test_saliency.py::test_a_method_by_its_name",),
    ),
    # methods/perturbation
    Mutant(
        "cells are not reflected at the border",
        "funcattr/methods/perturbation/rise.py",
        "reflected = cells - 1 - (cells - 1 - (nodes - 1).abs()).abs()",
        "reflected = (nodes - 1).clamp(0, cells - 1)",
        ("tests/methods/perturbation/test_rise.py::test_masks_are_made_by_the_steps_of_torchray",),
    ),
    Mutant(
        "the examples of a share get each other's numbers",
        "funcattr/methods/perturbation/own_features.py",
        "return torch.cat(rows)[_back(shares)]",
        "return torch.cat(rows)",
        ("tests/methods/perturbation/test_own_features.py::test_each_example_gets_what_it_gets_alone",),
    ),
    Mutant(
        "features of the second input begin at zero again",
        "funcattr/methods/perturbation/coalitions.py",
        "start += size",
        "start += 0",
        ("tests/methods/perturbation/test_coalitions.py::test_every_value_is_a_feature_by_default",),
    ),
    # tools
    Mutant(
        "a NaN is like no number",
        "funcattr/agreement.py",
        "equal_nan=True",
        "equal_nan=False",
        ("tests/tools/test_export.py::test_not_a_number_is_a_number_like_any_other",),
    ),
    # metrics
    Mutant(
        "the area lacks its last point",
        "funcattr/metrics/degradation.py",
        "torch.trapezoid(scores, shares, dim=1)",
        "torch.trapezoid(scores[:, :-1], shares[:-1], dim=1)",
        ("tests/metrics/test_faithfulness.py::test_a_linear_model_loses_its_terms_one_by_one",),
    ),
    Mutant(
        "subsets are of one feature more",
        "funcattr/metrics/sensitivity_n.py",
        "stream=size) < size",
        "stream=size) <= size",
        ("tests/metrics/test_faithfulness.py::test_subsets_are_of_their_size_and_not_cumulative",),
    ),
    Mutant(
        "neighbours across count as those beside",
        "funcattr/metrics/impute.py",
        "(part / (k * total)",
        "(part / total",
        (
            "tests/metrics/test_impute.py::test_the_weights_are_a_sixth_beside_and_a_twelfth_across_and_sum_to_one_at_the_border",
        ),
    ),
    Mutant(
        "a solution that is not there yet is returned",
        "funcattr/metrics/impute.py",
        "if not bool(converged.all()):",
        "if not bool(converged.any()) and steps is None:",
        ("tests/metrics/test_impute.py::test_too_few_iterations_are_an_error_or_not_a_number",),
    ),
    Mutant(
        "what is kept is filled",
        "funcattr/metrics/players.py",
        "return torch.where(removed, _imputed(call, imputation, rows, removed), rows)",
        "return _imputed(call, imputation, rows, removed)",
        ("tests/metrics/test_impute.py::test_a_function_is_given_copies_and_what_is_removed",),
    ),
    Mutant(
        "ranks go by rounding",
        "funcattr/metrics/single_deletion.py",
        "> 32 * torch.finfo(values.dtype).eps * size",
        "> 0",
        (
            "tests/metrics/test_single_deletion.py"
            "::test_features_without_influence_share_a_rank_though_rounding_differs",
        ),
    ),
    Mutant(
        "the Gini index counts places from 0",
        "funcattr/metrics/sparseness.py",
        "torch.arange(1, count + 1, device=ordered.device)",
        "torch.arange(count, device=ordered.device)",
        ("tests/metrics/test_sparse_maps.py::test_values_by_hand",),
    ),
    Mutant(
        "the entropy is in nats",
        "funcattr/metrics/complexity.py",
        ".log2()",
        ".log()",
        ("tests/metrics/test_sparse_maps.py::test_values_by_hand",),
    ),
    Mutant(
        "the search keeps what matters most",
        "funcattr/metrics/greedy_order.py",
        'descending=first == "lowest"',
        'descending=first == "highest"',
        ("tests/metrics/test_greedy_order.py::test_agrees_with_a_slow_search",),
    ),
    Mutant(
        "another network's results are gone on with",
        "funcattr/truth/results.py",
        'before is None or before["made_by"] != made_by',
        "before is None",
        ("tests/test_truth.py::test_what_other_code_has_made_is_asked_anew_and_the_rest_stays",),
    ),
    Mutant(
        "a network remembers shapes and no values",
        "funcattr/truth/remembered.py",
        "hashlib.sha1(as_bytes(x), usedforsecurity=False).digest(), x.shape",
        'b"", x.shape',
        ("tests/test_truth.py::test_a_batch_runs_once",),
    ),
    Mutant(
        "what examples see of each other is taken for rounding",
        "funcattr/attribution/rounding.py",
        "tree_leaves(others))):\n        return False",
        "tree_leaves(others))):\n        return True",
        (
            "tests/attribution/test_example_dims.py"
            "::test_examples_that_see_each_other_a_little_are_refused_beside_large_rounding",
        ),
    ),
    Mutant(
        "a root of nothing has an infinite multiplier",
        "funcattr/rules/multipliers/rescale.py",
        "derivative.isinf() & (dx == 0)",
        "derivative.isnan() & (dx == 0)",
        ("tests/rules/test_statistics.py::test_a_norm_of_nothing_has_finite_multipliers",),
    ),
    Mutant(
        "fused attention has no second derivative",
        "funcattr/methods/relevance/full_grad.py",
        "PassOptions(TWICE)",
        "PassOptions()",
        ("tests/methods/relevance/test_full_grad.py::test_sums_where_torch_does_not_differentiate_twice",),
    ),
    Mutant(
        "the rise is counted downwards",
        "funcattr/metrics/completeness.py",
        "copies_of(question, last).scores() - copies_of(question, first).scores()",
        "copies_of(question, first).scores() - copies_of(question, last).scores()",
        ("tests/metrics/test_completeness.py::test_with_samples_it_is_the_rise_between_the_ends_that_are_drawn",),
    ),
    Mutant(
        "equal values have the rank of the first of them",
        "funcattr/metrics/correlation.py",
        "(first + last).to(torch.float64) / 2",
        "first.to(torch.float64)",
        ("tests/metrics/test_randomization.py::test_correlations_equal_plain_ones_ties_included",),
    ),
    Mutant(
        "every draw of new numbers is the first one",
        "funcattr/metrics/random_models.py",
        "torch.full((1,), sample,",
        "torch.full((1,), 0,",
        ("tests/metrics/test_randomization_entropy.py::test_equals_a_loop_over_random_copies",),
    ),
    Mutant(
        "models beside others lose what they keep of their own",
        "funcattr/metrics/random_models.py",
        "change.get(name, own[name]) for change in part",
        "part[-1].get(name, own[name]) for change in part",
        ("tests/metrics/test_randomization.py::test_equals_a_loop_over_changed_copies",),
    ),
    Mutant(
        "an error of a method is taken for one of vmap's where a number at once is asked for",
        "funcattr/metrics/random_models.py",
        "if chunk_size is not None:",
        "if False:",
        ("tests/metrics/test_randomization.py::test_a_method_that_cannot_be_mapped_runs_model_by_model",),
    ),
    Mutant(
        "a map is compared at the scale of the other model",
        "funcattr/metrics/randomization.py",
        "return found / found.abs().amax((1, 2, 3), keepdim=True)",
        "return found",
        ("tests/metrics/test_structural_similarity.py::test_randomised_maps_are_compared_at_their_own_scale",),
    ),
    Mutant(
        "the structure of two images is that of one",
        "funcattr/metrics/structural_similarity.py",
        "shared = mean(a * b)",
        "shared = mean(a * a)",
        ("tests/metrics/test_structural_similarity.py::test_equals_scikit_image",),
    ),
    Mutant(
        "a value on an edge is in the bin below",
        "funcattr/metrics/randomization_entropy.py",
        "torch.searchsorted(edges, values, right=True)",
        "torch.searchsorted(edges, values)",
        ("tests/metrics/test_randomization_entropy.py::test_entropy_equals_that_of_numpys_histogram",),
    ),
    Mutant(
        "the options of Quantus's call are lost",
        "funcattr/metrics/as_quantus.py",
        "{**options, **more}",
        "options",
        ("tests/metrics/test_as_quantus.py::test_options_of_the_call_come_on_top_and_the_device_is_left_out",),
    ),
    Mutant(
        "copies lie in memory as they come",
        "funcattr/attribution/separate_copies.py",
        "return copies.contiguous(memory_format=layout)",
        "return copies",
        ("tests/attribution/test_channels_last.py::test_copies_lie_as_the_images_do_and_give_the_same",),
    ),
    # testing
    Mutant(
        "another dtype is equal",
        "funcattr/testing/comparison.py",
        "require(actual.dtype == expected.dtype,",
        "require(True,",
        ("tests/testing/test_comparison.py::test_assert_equal_fails_on_a_wrong_value_shape_dtype_or_structure",),
    ),
    Mutant(
        "another object in place of one is not seen",
        "funcattr/tools/belongings.py",
        "if part is not old:",
        "if False:",
        ("tests/tools/test_belongings.py::test_a_touch_is_seen",),
    ),
    Mutant(
        "examples may see each other",
        "funcattr/attribution/separate_copies.py",
        "if same_numbers(first, found, size=size):",
        "if True:",
        ("tests/attribution/test_example_dims.py::test_examples_that_see_each_other_are_refused",),
    ),
    Mutant(
        "a value and its size are no relu",
        "funcattr/tape/unclear_relus.py",
        "if sizes.get(left) == other or sizes.get(right) == first:",
        "if sizes.get(left) == other:",
        ("tests/rules/test_spellings.py::test_what_may_be_a_relu_by_its_parts_is_named",),
    ),
    Mutant(
        "places of unknown length overlap",
        "funcattr/calls/memories.py",
        "return not _apart(one, other)",
        "return True",
        ("tests/calls/test_memories.py::test_columns_of_unknown_length_lie_apart",),
    ),
    Mutant(
        "a write reads everything before it writes",
        "funcattr/tape/aliases.py",
        "return moves if where == read else overlap(where, read)",
        "return moves if where == read else False",
        ("tests/tape/test_writes.py::test_a_write_over_what_it_reads_is_refused",),
    ),
    Mutant(
        "an assignment writes the whole tensor",
        "funcattr/tape/aliases.py",
        "            target = part\n",
        "            pass\n",
        ("tests/tape/test_writes.py::test_a_write_beside_what_it_reads",),
    ),
    Mutant(
        "steps that do not pass each other lie apart",
        "funcattr/_torch.py",
        "if length > 1 and step <= reach:",
        "if length > 1 and step < 1:",
        ("tests/tape/test_writes.py::test_a_write_into_values_that_share_a_place_is_refused",),
    ),
    Mutant(
        "a mask that was written is one still",
        "funcattr/tape/masks.py",
        "if noted is None or noted.version == version(value):",
        "if True:",
        ("tests/rules/test_spellings.py::test_a_mask_that_was_written_is_no_relu",),
    ),
    Mutant(
        "a mask that was written without a trace is one still",
        "funcattr/tape/masks.py",
        "return x if _is_where_positive(mask, x, keeps) else None",
        "return x",
        ("tests/rules/test_spellings.py::test_a_mask_that_was_written_is_no_relu",),
    ),
    Mutant(
        "what vmap maps over counts its writes itself",
        "funcattr/_torch.py",
        "return _innermost(tensor)._version",
        "return tensor._version",
        ("tests/calls/test_saved_tensors.py::test_a_constant_that_vmap_maps_over_is_written_after_it_was_read",),
    ),
    Mutant(
        "a sign is a mask",
        "funcattr/tape/masks.py",
        "mask is not None and not mask.is_sign",
        "mask is not None",
        ("tests/rules/test_spellings.py::test_what_only_looks_like_the_parts_of_a_relu_is_not_named",),
    ),
    Mutant(
        "the copy of an example is no other",
        "funcattr/attribution/neighbours.py",
        "rows=(_near, _changed(0), drawn_in)",
        "rows=(_changed(0), _changed(0), _changed(0))",
        ("tests/attribution/test_neighbours.py::test_a_statistic_of_the_batch_is_another_one_alone_and_beside_others",),
    ),
    Mutant(
        "an example that is asked about is the largest of its batch",
        "funcattr/attribution/neighbours.py",
        "torch.where(value.isfinite(), value + part * (farther - value), value)",
        "value",
        ("tests/attribution/test_neighbours.py::test_by_default_no_copy_is_scaled_by_others",),
    ),
    Mutant(
        "an example is the first of its copies, where no scan over the batch comes by another",
        "funcattr/attribution/neighbours.py",
        "even, odd = torch.stack(rows, 1),",
        "even, odd = torch.stack([rows[1], rows[0], *rows[2:]], 1),",
        ("tests/attribution/test_neighbours.py::test_an_example_is_found_again_beside_others",),
    ),
    Mutant(
        "rows of all examples have the same places",
        "funcattr/attribution/neighbours.py",
        "% 2 == 1",
        "% 2 == 2",
        ("tests/attribution/test_neighbours.py::test_places_differ_from_example_to_example",),
    ),
    Mutant(
        "an example that lacks a number is one like the others",
        "funcattr/attribution/few_examples.py",
        "missing = [~rows.isfinite(), rows == 0, *ends]",
        "missing = [rows.isfinite(), rows == 0, *ends]",
        ("tests/attribution/test_neighbours.py::test_few_examples_have_the_ends_and_what_may_be_missing",),
    ),
    Mutant(
        "a model that does not run on a few examples is not asked about all",
        "funcattr/attribution/separate_copies.py",
        "[None] if few is None else [few, None]",
        "[None] if few is None else [few]",
        ("tests/attribution/test_neighbours.py::test_a_model_that_runs_on_eights_only_is_asked_about_all",),
    ),
    Mutant(
        "only the examples drawn in are asked about",
        "funcattr/attribution/separate_copies.py",
        "for place in (SECOND, GIVEN)",
        "for place in (SECOND,)",
        ("tests/attribution/test_neighbours.py::test_what_the_padding_of_a_batch_decides_is_refused",),
    ),
    Mutant(
        "what a target has for an example does not go with the few that are asked about",
        "funcattr/batch.py",
        "kept = values if self.few is None else [values[i] for i in self.few.tolist()]",
        "kept = values if self.few is None else values[: len(self.few)]",
        ("tests/methods/gradient/test_tunnel_options.py::test_a_few_examples_take_theirs_along",),
    ),
    Mutant(
        "a method that draws is stacked",
        "funcattr/methods/gradient/noise_tunnel.py",
        "if _is_separate(about, x, constants, plain) else 1",
        "if _is_separate(about, x, constants, plain) else chunk",
        ("tests/attribution/test_example_dims.py::test_a_method_that_depends_on_chance_runs_sample_by_sample",),
    ),
    Mutant(
        "a point is taken for (row, column)",
        "funcattr/compat/torchray/benchmark/pointing_game.py",
        "(rows[:, None] - float(point[1])) ** 2",
        "(rows[:, None] - float(point[0])) ** 2",
        ("tests/compat/torchray/test_benchmark.py::test_a_hit_is_a_pixel_nearer_than_the_tolerance",),
    ),
    Mutant(
        "what goes around a layer stays at the input",
        "funcattr/compat/captum/attr/layer_differences.py",
        "baseline=(*begin, *start), **options",
        "baseline=(*begin, *given.x), **options",
        ("tests/compat/test_captum_attr.py::test_deep_lift_of_a_layer_beside_a_skip_connection",),
    ),
    Mutant(
        "rounding is taken for a neighbour",
        "funcattr/methods/gradient/noise_tunnel.py",
        "lambda v: nudged(change(v))",
        "change",
        ("tests/attribution/test_example_dims.py::test_rounding_that_the_method_makes_large_is_not_refused",),
    ),
    Mutant(
        "a map at a site with other rows is taken",
        "funcattr/methods/features.py",
        "question.require_rows(features)",
        "pass",
        ("tests/attribution/test_example_dims.py::test_a_map_of_a_site_with_other_rows_is_refused",),
    ),
    Mutant(
        "the channels of a condition are those of the model's form",
        "funcattr/rulebook/conditions.py",
        "return back(mask.reshape(broadcast).to(cotangent), self.example_dim)",
        "return mask.reshape(broadcast).to(cotangent)",
        ("tests/attribution/test_example_dims.py::test_images_in_dimension_one",),
    ),
    Mutant(
        "results are not moved back",
        "funcattr/attribution/question.py",
        "return pytree.tree_map(back, result, self.layout.x)",
        "return result",
        ("tests/attribution/test_example_dims.py::test_a_graph_is_one_example",),
    ),
    Mutant(
        "what was written is not told",
        "funcattr/tools/verify.py",
        "return (not changed), ",
        "return True, ",
        ("tests/tools/test_verify.py::test_a_write_that_no_copy_can_catch_is_named",),
    ),
    # show
    Mutant(
        "one pixel sets the scale",
        "funcattr/show/color_scales.py",
        "np.quantile(magnitudes, quantile)",
        "np.quantile(magnitudes, 1.0)",
        ("tests/show/test_color_scales.py::test_one_pixel_does_not_set_the_scale",),
    ),
    Mutant(
        "channels first are taken for last",
        "funcattr/show/image_values.py",
        'axis = 0 if channels == "first" else -1',
        "axis = -1",
        ("tests/show/test_image_values.py::test_the_order_of_channels_is_not_guessed",),
    ),
    Mutant(
        "words are not escaped",
        "funcattr/show/tokens.py",
        ">{escape(word)}</span>",
        ">{word}</span>",
        ("tests/show/test_tokens.py::test_words_cannot_break_the_page_or_steer_the_terminal",),
    ),
    # command, demo
    Mutant(
        "the target is the class with the lowest output",
        "funcattr/command/classes.py",
        "return int(outputs.argmax())",
        "return int(outputs.argmin())",
        ("tests/command/test_images.py::test_the_default_network_sees_the_cat",),
    ),
    Mutant(
        "black and white change places for the rulebook with bounds",
        "funcattr/command/images.py",
        "for end in (0, 1))",
        "for end in (1, 0))",
        ("tests/command/test_images.py::test_a_rulebook_with_bounds_gets_what_black_and_white_are_in_each_channel",),
    ),
    Mutant(
        "a photo lies as the camera held it",
        "funcattr/command/images.py",
        "ImageOps.exif_transpose(opened)",
        "opened",
        ("tests/command/test_images.py::test_a_photo_stands_upright_and_transparent_parts_are_white",),
    ),
    Mutant(
        "the right half of a pair is the other photograph",
        "funcattr/demo/photos.py",
        "boxes.append([0, half * SIDE, SIDE, (half + 1) * SIDE])",
        "boxes.append([0, (1 - half) * SIDE, SIDE, (2 - half) * SIDE])",
        ("tests/test_demo.py::test_both_things_of_a_pair_of_photographs_are_among_the_first_classes_of_the_network",),
    ),
    # metrics: regions and data whose answer is known
    Mutant(
        "a peak at the tolerance is a hit",
        "funcattr/metrics/regions.py",
        "(squared < bound)",
        "(squared <= bound)",
        ("tests/metrics/test_regions.py::test_tolerance_is_a_strict_bound_on_the_distance",),
    ),
    Mutant(
        "a constant map points at its first pixel",
        "funcattr/metrics/regions.py",
        "amax(1) > maps",
        "amax(1) >= maps",
        ("tests/metrics/test_regions.py::test_a_constant_map_points_nowhere",),
    ),
    Mutant(
        "a mask is laid out column by column",
        "funcattr/metrics/regions.py",
        "return regions.flatten(1)",
        "return regions.mT.flatten(1)",
        ("tests/metrics/test_regions.py::test_a_mask_of_boxes_is_the_boxes_compiled_too",),
    ),
    Mutant(
        "a class with many examples counts more",
        "funcattr/metrics/mean_by_class.py",
        "counts.clamp(min=1)",
        "counts.clamp(min=1).max()",
        ("tests/metrics/test_mean_by_class.py::test_mean_by_class_equals_a_dictionary_of_lists",),
    ),
    Mutant(
        "the factors of a product get all of it each",
        "funcattr/metrics/datasets/closed_forms.py",
        "factors * x * others / 2",
        "factors * x * others",
        ("tests/metrics/test_datasets.py::test_attributions_are_the_shapley_values_and_gradients_the_derivative",),
    ),
    Mutant(
        "the baseline of an additive function is left out",
        "funcattr/metrics/datasets/closed_forms.py",
        "c.exp() - 1,",
        "c.exp(),",
        ("tests/metrics/test_datasets.py::test_attributions_are_the_shapley_values_and_gradients_the_derivative",),
    ),
    Mutant(
        "the second animal is the first one again",
        "funcattr/metrics/datasets/deciding_word.py",
        "animals[:, 2] =",
        "animals[:, 1] =",
        ("tests/metrics/test_datasets.py::test_another_word_decides_nothing",),
    ),
    Mutant(
        "the attention does not fall from place to place",
        "funcattr/metrics/datasets/deciding_word.py",
        "-4.0 * torch",
        "-0.1 * torch",
        ("tests/metrics/test_datasets.py::test_another_word_decides_nothing",),
    ),
    Mutant(
        "the region is another trigger's",
        "funcattr/metrics/datasets/trigger.py",
        "|= k == 0",
        "|= k == 1",
        ("tests/metrics/test_datasets.py::test_a_class_fires_if_and_only_if_its_trigger_is_there",),
    ),
    Mutant(
        "half of a trigger makes its class fire",
        "funcattr/metrics/datasets/trigger.py",
        "nn.Parameter(torch.full((count,), -3.0))",
        "nn.Parameter(torch.full((count,), -1.0))",
        ("tests/metrics/test_datasets.py::test_a_class_fires_if_and_only_if_its_trigger_is_there",),
    ),
    Mutant(
        "a box is of another digit",
        "funcattr/metrics/datasets/digits.py",
        "boxes[canvas, digit]",
        "boxes[canvas, digit.roll(1)]",
        ("tests/metrics/test_datasets.py::test_a_digit_is_gone_without_its_ink_and_stays_without_another_ones",),
    ),
    Mutant(
        "photographs lie at the top of the canvas",
        "funcattr/metrics/datasets/photos.py",
        "(side - height) // 2",
        "0",
        ("tests/metrics/test_datasets.py::test_boxes_lie_on_the_photos_and_not_on_the_margins",),
    ),
    # maps, batch, torch_state
    Mutant(
        "energy counts what speaks against the target",
        "funcattr/metrics/regions.py",
        "positive = maps.flatten(1).clamp(min=0).to(precise)",
        "positive = maps.flatten(1).abs().to(precise)",
        ("tests/metrics/test_regions.py::test_energy_in_region_equals_loop_over_pixels",),
    ),
    Mutant(
        "an output of -0 starts with the sign of its zero",
        "funcattr/attribution/forward.py",
        "stabilized(output)",
        "stabilized(output, summed=True)",
        ("tests/rules/test_stabilizer.py::test_an_output_that_is_minus_what_cancels_starts_like_one_that_cancels",),
    ),
    Mutant(
        "tokens are laid out column by column",
        "funcattr/maps.py",
        "skip:].reshape(shape[0], 1, rows, columns)",
        "skip:].reshape(shape[0], 1, columns, rows).mT",
        ("tests/test_maps.py::test_tokens_of_patches_become_places_row_by_row",),
    ),
    Mutant(
        "the Gaussian has another width",
        "funcattr/maps.py",
        "math.sqrt(2) * sigma + 1.19e-7",
        "2 * sigma + 1.19e-7",
        ("tests/test_maps.py::test_smoothing_is_its_formula_along_each_dimension",),
    ),
    Mutant(
        "copies come batch by batch",
        "funcattr/batch.py",
        '"n ... -> (n times) ..."',
        '"n ... -> (times n) ..."',
        ("tests/test_batch.py::test_each_example_is_followed_by_its_copies",),
    ),
    Mutant(
        "a value that a derivative asks for is written over",
        "funcattr/torch_state.py",
        "if torch.is_grad_enabled():",
        "if False:",
        ("tests/tape/test_recompute.py::test_a_result_takes_the_place_of_what_is_owned_only_where_nobody_can_tell",),
    ),
    Mutant(
        "a pass inside a dual level is taken for one that nobody differentiates",
        "funcattr/torch_state.py",
        " and not inside_dual_level()",
        "",
        ("tests/test_contract.py::test_a_tangent_of_forward_mode_is_carried",),
    ),
    # compat.torchray
    Mutant(
        "a context's rule reads what the model wrote into its operand",
        "funcattr/compat/torchray/attribution/contexts.py",
        "copies = [operand.clone() for operand in operands]",
        "copies = [operand.view_as(operand) for operand in operands]",
        (f"{TORCHRAY}/test_backprop.py::test_what_the_model_writes_after_a_call_does_not_change_its_rule",),
    ),
    Mutant(
        "guided backpropagation by TorchRay's name blocks p at zero",
        "funcattr/compat/torchray/attribution/guided_backprop.py",
        "return torch.where(call.operands[0] == 0, p.clamp(min=0), rules.guided(call, p))",
        "return rules.guided(call, p)",
        (f"{TORCHRAY}/test_backprop.py::test_guided_lets_p_pass_at_zero_as_torchray_does_and_funcattr_does_not",),
    ),
    Mutant(
        "a probe takes part in the passes of funcattr's methods",
        "funcattr/compat/torchray/attribution/probes.py",
        "if id(module) != self._place:",
        "if module is not self.module:",
        (f"{TORCHRAY}/test_backprop.py::test_a_probe_that_was_left_on_the_model_changes_no_method",),
    ),
    Mutant(
        "width and height are mixed up",
        "funcattr/compat/torchray/attribution/seeds.py",
        "else tuple(size)[::-1]",
        "else tuple(size)",
        (f"{TORCHRAY}/test_backprop.py::test_each_call_equals_the_formulas",),
    ),
    Mutant(
        "a box of VOC begins a pixel too late",
        "funcattr/compat/torchray/benchmark/datasets.py",
        "mask[max(top - 1, 0) : bottom, max(left - 1, 0) : right] = True",
        "mask[top:bottom, left:right] = True",
        (f"{TORCHRAY}/test_benchmark.py::test_voc_is_read",),
    ),
    Mutant(
        "a dual reward takes the first half of the copies for what is kept",
        "funcattr/compat/torchray/attribution/extremal_perturbation.py",
        "halves = torch.cat([activation[0::2], activation[1::2]])",
        "halves = activation",
        (f"{TORCHRAY}/test_perturbation.py::test_the_search_equals_the_formulas",),
    ),
    Mutant(
        "a single call in place writes",
        "funcattr/rulebook/one_call.py",
        "func, args, kwargs, *_ = out_of_place(func, told, args, kwargs)",
        "pass",
        ("tests/rulebook/test_one_call.py::test_what_a_call_writes_is_said_and_not_written",),
    ),
)


class Verdict(NamedTuple):
    """The end of a mutant: "killed", "SURVIVED", or why neither can be said; and the seconds that it took."""

    mutant: Mutant
    word: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.word:<8} {self.seconds:5.1f} s  {self.mutant.file}: {self.mutant.name}"


def changed(source: str, mutant: Mutant) -> str:
    """The text of a file with the fault in it.

    Raises:
        ValueError: If the old text is not there, or more than once.
    """
    found = source.count(mutant.old)
    if found != 1:
        raise ValueError(f"{mutant.file}: {mutant.name}: expected once, found {found} times: {mutant.old!r}")
    return source.replace(mutant.old, mutant.new)


@contextmanager
def faulty(folder: Path, mutant: Mutant) -> Iterator[None]:
    """A copy with a fault in it, for as long as the context lasts."""
    file = folder / mutant.file
    source = file.read_text()
    try:
        _write(file, changed(source, mutant))
        yield
    finally:
        _write(file, source)


def _write(file: Path, text: str) -> None:
    file.write_text(text)
    # Bytecode is told apart by the second and the size of its source, which two texts may have in common.
    for old in file.parent.glob(f"__pycache__/{file.stem}.*.pyc"):
        old.unlink()


def copied(root: Path, folder: Path) -> Path:
    """A copy of the package and its tests, bytecode included."""
    folder.mkdir()
    unfinished = shutil.ignore_patterns("*.pyc.*")  # which some other process is writing
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, ignore=unfinished)
        elif (root / name).exists():
            shutil.copy2(root / name, folder / name)
    return folder


def run_tests(folder: Path, tests: Sequence[str], *options: str) -> tuple[int, str]:
    """The exit code of pytest in a copy, and what it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *options, *tests]
    done = subprocess.run(command, cwd=folder, env=_environment(folder), capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder)}


class Copy:
    """A copy of the package and its tests, and a process that runs some of them, with torch imported once.

    Args:
        folder: The copy's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, str(Path(__file__).with_name("nursery.py"))]
        pipe, streams = subprocess.PIPE, {"stderr": subprocess.DEVNULL, "text": True}
        self._process: Any = subprocess.Popen(
            command, cwd=folder, env=_environment(folder), stdin=pipe, stdout=pipe, **streams
        )

    def outcome(self, tests: Sequence[str]) -> int | None:
        """The exit code of pytest at the first failure; None where it took too long."""
        print(json.dumps([list(tests), LIMIT]), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.__exit__(None, None, None)  # which closes its pipes, and waits


def failing(folder: Path, mutants: Sequence[Mutant]) -> set[str]:
    """Those of the mutants' tests that fail without a fault.

    Raises:
        RuntimeError: If they cannot be run.
    """
    tests, broken = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests)), set[str]()
    while tests:
        code, printed = run_tests(folder, tests, "--continue-on-collection-errors", "-rfE")
        ids = [line.split(" ", 1)[1] for line in printed.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        found = {test for test in tests for name in ids if name.startswith(test) or test.startswith(f"{name}::")}
        broken |= found
        if code in (0, 1):
            break
        if not found:
            raise RuntimeError(f"the tests cannot be run, pytest ends with {code}:\n{printed}")
        tests = [
            test for test in tests if test not in found
        ]  # of a file that cannot be imported no test runs, nor others
    return broken


def verdict(copy: Copy, mutant: Mutant) -> Verdict:
    """Whether a mutant's tests tell it from the package."""
    begin = time.perf_counter()
    with faulty(copy.folder, mutant):
        code = copy.outcome(mutant.tests)
    words = {0: "SURVIVED", 1: "killed", None: "killed"}  # tests that take too long notice as well
    return Verdict(mutant, words.get(code, f"pytest ends with {code}"), time.perf_counter() - begin)


def judged(mutants: Sequence[Mutant], root: Path, jobs: int) -> Iterator[Verdict]:
    """The verdicts, in order: `jobs` mutants at a time, each in a copy of its own."""
    copies: queue.Queue[Copy] = queue.Queue()

    def one(mutant: Mutant) -> Verdict:
        copy = copies.get()
        try:
            return verdict(copy, mutant)
        finally:
            copies.put(copy)

    with tempfile.TemporaryDirectory() as place, ExitStack() as ends, ThreadPoolExecutor(jobs) as pool:
        for number in range(jobs):
            copies.put(copy := Copy(copied(root, Path(place, str(number)))))
            ends.callback(copy.close)
        broken = failing(Path(place, "0"), mutants)
        for test in sorted(broken):
            print(f"fails without a fault: {test}", flush=True)
        whole = [mutant for mutant in mutants if not broken.intersection(mutant.tests)]
        yield from (Verdict(mutant, "tests fail without it", 0.0) for mutant in mutants if mutant not in whole)
        yield from pool.map(one, whole)


def main(arguments: Sequence[str], mutants: Sequence[Mutant] = MUTANTS, root: Path = ROOT) -> int:
    """Print a line for each mutant; 0 if all are killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Mutants that the tests have to kill.")
    parser.add_argument("words", nargs="*", help="only mutants with one of these in their name or file")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--list", action="store_true", help="say which there are, and stop")
    options = parser.parse_args(arguments)
    chosen = [m for m in mutants if not options.words or any(word in f"{m.file} {m.name}" for word in options.words)]
    if options.list:
        print("\n".join(f"{m.file}: {m.name}" for m in chosen))
        return 0
    lived = 0
    for found in judged(chosen, root, options.jobs):
        print(found, flush=True)
        lived += found.word != "killed"
    print(f"{len(chosen) - lived} of {len(chosen)} mutants killed")
    return int(lived > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
