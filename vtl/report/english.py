"""The page in English. Values in braces are put in; the rest may hold HTML."""

WORDS = {
    "title": "Visual transfer learning: {names}",
    "and": "and",
    "nothing": "nothing",
    "no_bound": "no bound",
    "skip": "Skip to the content",
    "made_by": "Made by <code>{command}</code> (vtl {version}).",
    "refused": "Left out:",
    # Sections.
    "summary": "Summary",
    "curves": "Curves",
    "classes": "Classes",
    "photos": "Photos",
    "questions": "The lab’s questions",
    "trust": "Trust",
    "data_set": "{name}: {count} photos of <em>{split}</em>, {classes} classes",
    "unnamed_data": "unnamed data",
    "apart": "Runs on other photos or classes are compared apart, never in one column.",
    # Summary.
    "headline_best": "On {name}, <strong>{run}</strong> has the highest mAP on {split}: {mean} "
    "({protocol}).",
    "headline_tied": "On {name}, <strong>{run}</strong> has the highest mAP on {split}, {mean} "
    "({protocol}); {others} can’t be told from it.",
    "headline_alone": "On {name}, <strong>{run}</strong> has an mAP of {mean} on {split} "
    "({protocol}).",
    "protocols": "mAP and AP are in percent, with 95 % intervals of a bootstrap over photos; "
    "photos repeat in a resample, which lifts AP a little, so that intervals sit somewhat high. "
    "<code>lab</code>: scikit-learn’s average precision, difficult photos are negatives; "
    "<code>voc2007</code>: 11-point, <code>voc2010</code>: area under the interpolated curve, "
    "difficult photos left out of both. A probe’s time is without that of its features.",
    "sortable": "Click a heading to sort.",
    "best": "best",
    "column_run": "run",
    "column_regime": "what trains",
    "column_weights": "weights",
    "column_photos": "trained on",
    "column_map": "mAP, {protocol}",
    "column_train_map": "train mAP, {protocol}",
    "column_parameters": "trained parameters",
    "column_rate": "photos/s",
    "column_time": "time",
    "column_seed": "seed",
    "column_commit": "commit",
    "regime_probe": "linear probe",
    "regime_head": "head",
    "regime_partial": "part",
    "regime_full": "all",
    "regime_scratch": "all, from random",
    "no_weights": "none",
    "unknown": "–",
    "published": "Published, for comparison",
    "published_note": "Supervised ImageNet networks on VOC2007, trained on trainval and tested on "
    "test. Compare only what agrees in average precision, difficult photos and input.",
    "column_source": "source",
    "column_model": "network",
    "column_ap": "average precision",
    "column_difficult": "difficult photos",
    "column_input": "input",
    "study": "The ReLU study: {name}",
    "study_note": "Epochs until the held-out accuracy of the heading, or the lowest held-out loss "
    "to within 1 %, is reached: median of {seeds} seeds with 95 % interval; each activation at "
    "its own best learning rate.",
    "column_network": "network",
    "column_activation": "activation",
    "column_learning_rate": "learning rate",
    "column_lowest_loss": "lowest loss, epochs",
    "column_test_accuracy": "test accuracy",
    "study_all_diverged": "diverged",
    # Figures.
    "figure_loss": "Training loss",
    "figure_binary_accuracy": "Training accuracy",
    "figure_map": "mAP on {split}",
    "figure_learning_rate": "Learning rate",
    "figure_classes": "AP by class ({protocol})",
    "figure_together": "Labels that occur together",
    "figure_differences": "Difference of mAP ({protocol})",
    "figure_sigmoid": "Scores of one photo",
    "figure_bce": "Binary cross-entropy",
    "figure_error": "{network}: held-out error, median and range of seeds",
    "figure_gradients": "{network}: gradient norm, median and range of seeds",
    "axis_epoch": "epoch",
    "axis_loss": "binary cross-entropy, nats",
    "axis_binary_accuracy": "labels right, %",
    "always_no": "To answer no to every class gets {share} % of the labels of {split} right.",
    "axis_map": "mAP (lab), %",
    "axis_learning_rate": "learning rate",
    "axis_ap": "AP, %",
    "axis_recall": "recall",
    "axis_precision": "precision",
    "axis_also": "have this one too",
    "axis_with": "of the photos with",
    "axis_difference": "points of mAP",
    "axis_score": "score",
    "axis_nats": "loss, nats",
    "axis_error": "error, %",
    "axis_gradients": "norm over all layers",
    "label_present": "class present",
    "label_absent": "class absent",
    # Classes.
    "classes_note": "Dots are average precision, bars their 95 % interval. Classes are in the "
    "order of the best run.",
    "column_class": "class",
    "column_positives": "photos with it",
    "precision_recall": "Precision and recall",
    "together_note": "How to read it: of the photos with the class of a row, the share that also "
    "has the class of a column.",
    "mistaken": "Taken for each other",
    "mistaken_note": "Of <strong>{run}</strong>: of each class as many photos are taken as have "
    "it, the best-scored. Those without it are its false alarms; the pairs say what was in them.",
    "mistaken_none": "There are no false alarms among them.",
    "column_seen": "seen",
    "column_there": "really there",
    "column_count": "photos",
    "column_share": "% of the false alarms",
    # Photos.
    "photos_note": "Of <strong>{run}</strong> on {split}: of each class the best-scored photos "
    "with it, the best-scored without it, and the worst-scored with it.",
    "maps": "Show what speaks for the class, and where",
    "maps_note": "The coat of colour is the class activation map, exact, for the head sees the "
    "mean of the last stage’s output: the map’s mean and the class’s bias sum to the photo’s "
    "logit. Only what speaks for the class is coloured, each photo by its own maximum; one cell "
    "of the map sees a large part of the photo.",
    "kind_hit": "Hits",
    "kind_false alarm": "False alarms",
    "kind_miss": "Missed",
    "none": "none",
    "alt_photo": "photo {photo}: {labels}",
    "photos_left_out": "{count} more classes are left out, to keep the page small.",
    "photos_missing": "No run here has a gallery. Fine-tuning keeps one for each run "
    "(<code>gallery_test.npz</code>): <code>{command}</code>",
    # Questions.
    "missing": "Such a run is missing here. This makes it:",
    "answered_from": "Answered from the runs on",
    "q_activation": "Which activation converges faster, and why?",
    "q_sigmoid": "Why a sigmoid and not a softmax?",
    "q_cross_entropy": "What does binary cross-entropy compute, and why does it suit several "
    "labels?",
    "q_freezing": "What is freezing all but the last layer?",
    "q_probe": "What is the mAP of the linear probe?",
    "q_finetuning": "What is the mAP of fine-tuning?",
    "q_conclusion": "Conclusion",
    "on_network": "{network}, to {goal}: {found}",
    "study_diverged": "{gone} diverged at every learning rate, so that the two can’t be compared.",
    "study_neither": "neither {fast} nor {slow} got there within {epochs} epochs; which of the two "
    "is faster remains open.",
    "study_single": "{fast} took {fast_epochs} epochs and {slow} {slow_epochs}; that is a single "
    "run of each, from which nothing follows.",
    "study_tie": "{fast} took {fast_epochs} epochs and {slow} {slow_epochs}: a tie, for the ratio "
    "{ratio} may as well be 1.",
    "study_faster": "<strong>{fast}</strong> took {fast_epochs} epochs and {slow} {slow_epochs}: "
    "{ratio} times as many.",
    "ratio_at_least": "more than {value} [at least {low}]",
    "study_why": "Why, in {networks}: on its way down to the first layer the gradient is "
    "multiplied by the weights and, at each unit, by the slope. A sigmoid’s slope is at most 1/4, "
    "tanh’s at most 1, ReLU’s is 1 where a unit is on.",
    "study_why_not": "{networks}: slopes of at most 1/4 for a sigmoid and of 1 for a ReLU that is "
    "on should favour ReLU; these runs do not show it.",
    "study_gradients": "{network}: mean norm of the gradient of {layer}, its first layer, in the "
    "first epoch: {found}. A step is the rate times the gradient: a larger rate can make up for a "
    "smaller gradient.",
    "study_at_rate": "(learning rate {rate})",
    "study_idle": "{network}, at the end, in the layer that has most of them: {found}.",
    "study_saturated": "{name} {share} % of outputs saturated",
    "study_dead": "{name} {share} % of units dead",
    "sigmoid_several": "{share} % of the photos have more than one label; a photo has {mean} on "
    "average and at most {most}. A softmax makes the scores of a photo compete for a sum of 1; "
    "sigmoids ask of each class, by itself, whether it is there.",
    "sigmoid_single": "Of these photos none has more than one label ({mean} on average), so a "
    "softmax would do as well; sigmoids are right where labels may occur together, or none.",
    "sigmoid_one": "For example {photo}, which shows {labels}: the scores of {run} sum to {total}. "
    "The softmax of the same logits must share out 1 among the classes.",
    "bce_formula": "For each class with label y and score p it is −y ln p − (1 − y) ln(1 − p): −ln "
    "p where the class is there, −ln(1 − p) where it is not. The {num_classes} terms are "
    "averaged: one yes-or-no question for each class, and so any number of labels can be right.",
    "bce_one": "On {photo} the terms sum to {total}; divided by {num_classes} that is {mean}. The "
    "largest, {worst_term}, is that of <em>{worst}</em>. Over all photos of {split} the mean is "
    "{loss}.",
    "bce_class": "class",
    "bce_label": "label y",
    "bce_score": "score p",
    "bce_term": "term, nats",
    "freezing_is": "With all frozen but the last layer, the network is a fixed function from a "
    "photo to its deep features, and the last layer a logistic regression on them: it is the "
    "linear probe, only that the features are computed again at each step instead of once.",
    "freezing_tie": "That the two agree is what was to be expected.",
    "freezing_differ": "The two differ: look at epochs, learning rate, start of the head, photo "
    "size and difficult labels, which must be the same for them to agree.",
    "mean_ap": "<strong>{run}</strong>: mAP {means} on {split} ({count} photos); {train} on train "
    "({protocol}).",
    "mean_ap_alone": "<strong>{run}</strong>: mAP {means} on {split} ({count} photos).",
    "verdict_better": "<strong>{run}</strong> is better than {other}: {points} points {interval} "
    "of mAP ({protocol}; paired bootstrap over the same photos).",
    "verdict_tie": "{run} and {other} are tied: {points} points {interval} of mAP ({protocol}; "
    "paired bootstrap over the same photos) may as well be 0.",
    "verdict_none": "{run} and {other} can’t be compared: no class has a positive photo.",
    "conclusion_best": "On {name}, <strong>{run}</strong> has the highest mAP on {split}.",
    "conclusion_pretraining_better": "Pretraining pays: compared with {scratch}, the run from "
    "random initialisation, {run} has {points} points {interval}.",
    "conclusion_pretraining_tie": "Whether pretraining pays remains open: compared with {scratch}, "
    "the run from random initialisation, {run} has {points} points {interval}.",
    "conclusion_pretraining_worse": "Pretraining did not pay for {run}: compared with {scratch}, "
    "the run from random initialisation, it has {points} points {interval}.",
    # Trust.
    "warnings": "Warnings",
    "no_warnings": "None of the checks found anything.",
    "made_of": "What the runs were made of",
    "fact_command": "config",
    "fact_weights": "weights",
    "fact_data": "data",
    "fact_ids": "sha256 of the ids of {role}",
    "fact_preprocessing": "preprocessing",
    "fact_features": "features",
    "fact_versions": "versions",
    "fact_devices": "devices",
    "fact_commit": "commit",
    "fact_config": "all of the config",
    "warn_all_constant": "All photos of {role} have the same scores: the network or its features "
    "are constant.",
    "warn_constant": "All photos of {role} have the same score in {classes}.",
    "warn_no_probabilities": "Scores on {role} run from {low} to {high}: they are no "
    "probabilities, and no example is worked out on them.",
    "warn_no_ids": "The scores on {role} have no ids: which photo a row belongs to can’t be "
    "checked.",
    "warn_repeated_ids": "Some photos occur twice in {role}.",
    "warn_other_ids": "The ids of the scores on {role} are not those that results.json names by "
    "their sha256: rows may belong to other photos.",
    "warn_other_count": "There are {rows} rows of scores on {role} and {images} photos in "
    "results.json.",
    "warn_other_map": "results.json states an mAP of {stated} on {role}, the scores beside it give "
    "{computed}.",
    "warn_ties": "On {role} {count} of {images} photos tie in {name}: photos with and without the "
    "class are ranked exactly equal, as scores are that saturate, and how ties are broken decides "
    "its AP (voc2007, voc2010: the order of the file). Classes with ties: {classes}.",
    "warn_other_logits": "The logits on {role} are not those of the scores beside them.",
    "warn_overlap": "{count} photos are both in {role} and in {other}.",
    "warn_above_train": "The mAP on {role} is above that on train by more than its interval (from "
    "{low}, train {train}): were the splits exchanged, or is train the harder one?",
    "warn_not_computable": "{protocol} can’t be computed: {reason}.",
    "warn_none_difficult": "No photo of {role} is flagged difficult. Where the data set has such "
    "flags and they were lost, voc2007 and voc2010 are not those of the devkit.",
    "warn_not_voc2007": "The data is called voc2007, but VOC2007 has 5,011 and 4,952 photos and "
    "here are {train} and {test}: set it beside no published figure.",
    "warn_without_positives": "No photo of {role} has {classes}: left out of mAP.",
    "warn_untrained": "It was trained for 0 epochs.",
    "warn_resumed": "It was stopped and went on from step {step}.",
    "warn_unfinished": "Its status is {status}, not finished.",
    "warn_selected_on_test": "The test split {split} was also trained on or selected by: its mAP "
    "says nothing about new photos.",
    "warn_only_train": "There is no test split: this mAP is on photos that it was trained on.",
    "warn_only_val": "There is no test split: this mAP is on the photos by which its checkpoint "
    "was chosen.",
    "warn_no_commit": "No commit is known: the code ran outside a checkout.",
    "warn_dirty": "The code was changed since commit {commit}.",
    "warn_best_on_test": "The best run is marked by its mAP on test. To choose by it is to select "
    "on test: choose on a val split, and expect less than what stands here.",
    "warn_different_weights": "The runs start from {count} different weights.",
    "warn_different_train_split": "The runs were trained on {count} different sets of photos.",
    "warn_different_jax": "The runs were made with {count} versions of jax.",
    "warn_diverged": "{network} with {activation} diverged at every learning rate.",
    "warn_grids_edge": "{network} with {activation}: the best rate, {rate}, is at the edge of the "
    "grid; a wider one may hold a better.",
    "warn_few_seeds": "The study has {count} seeds: intervals over fewer than 5 say little.",
}
