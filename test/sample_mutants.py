# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Print a random sample of the mutants of each module that have no result yet: sample_mutants.py SIZE SEED MODULE."""

import random
import sys

from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import get_mutant_name

size, seed, module = sys.argv[1:]
for path in sorted(walk_mutatable_files()):
    if get_mutant_name(path, "").startswith(f"policy_node.{module}"):
        names = [get_mutant_name(path, name) for name in mutate_file_contents(str(path), path.read_text()).mutant_names]
        # A larger sample with the same seed contains the smaller one.
        random.Random(f"{seed} {path}").shuffle(names)
        results = SourceFileMutationData(path=path)
        results.load()
        print(*[name for name in names[: int(size)] if results.exit_code_by_key.get(name) is None], sep="\n")
