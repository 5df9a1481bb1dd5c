"""The page in English. Values in braces are filled in; the rest may hold HTML."""

WORDS = {
    "title": "Visual transfer learning: {names}",
    "num_runs": "{count} runs",
    "num_more": "{count} more",
    "and": "and",
    "semicolon": "; ",
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
    "data_set": "{name}: {count} photos in <em>{split}</em>, {classes} classes",
    "unnamed_data": "unnamed data",
    "apart": "Runs with different photos or classes are compared separately, each group in its own "
    "table.",
    # Summary.
    "headline_best": "On {name}, <strong>{run}</strong> has the highest mAP on {split}: {mean} "
    "({protocol}).",
    "headline_tied": "On {name}, <strong>{run}</strong> has the highest mAP on {split}, {mean} "
    "({protocol}), but is tied with {others}.",
    "headline_alone": "On {name}, <strong>{run}</strong> has an mAP of {mean} on {split} "
    "({protocol}).",
    "headline_none": "On {name} no run has a rank: what speaks against each stands under Trust.",
    "protocols": "mAP and AP are in percent, with 95 % bootstrap intervals over photos. A resample "
    "repeats photos, which raises AP slightly, so the intervals sit a little high. "
    "<code>lab</code> is scikit-learn’s average precision and counts difficult photos as "
    "negatives. <code>voc2007</code> is the 11-point AP and <code>voc2010</code> the area under "
    "the interpolated curve; both leave difficult photos out. A probe’s time does not include "
    "extracting its features.",
    "sortable": "Click a column heading to sort.",
    "best": "best",
    "not_ranked": "not ranked",
    "column_run": "run",
    "column_regime": "what is trained",
    "column_weights": "weights",
    "column_photos": "training photos",
    "column_map": "mAP, {protocol}",
    "column_train_map": "train mAP, {protocol}",
    "column_parameters": "trained parameters",
    "column_rate": "photos/s",
    "column_time": "time",
    "column_seed": "seed",
    "column_commit": "commit",
    "regime_probe": "linear probe",
    "regime_head": "head",
    "regime_partial": "some layers",
    "regime_full": "all layers",
    "regime_scratch": "all layers, from scratch",
    "no_weights": "none",
    "unknown": "–",
    "published": "Published results, for comparison",
    "published_note": "Supervised ImageNet networks on VOC2007, trained on trainval and tested on "
    "test. Compare only results with the same average precision, difficult photos and input.",
    "column_source": "source",
    "column_model": "network",
    "column_ap": "average precision",
    "column_difficult": "difficult photos",
    "column_input": "input",
    "study": "The ReLU study: {name}",
    "study_note": "The table shows how many epochs it takes to reach the held-out accuracy in the "
    "heading, or to come within 1 % of the lowest held-out loss: the median of {seeds} seeds with "
    "its 95 % interval. Each activation uses its own best learning rate.",
    "column_network": "network",
    "column_activation": "activation",
    "column_learning_rate": "learning rate",
    "column_lowest_loss": "epochs to lowest loss",
    "column_test_accuracy": "test accuracy",
    "study_all_diverged": "diverged",
    # Figures.
    "figure_loss": "Training loss",
    "figure_binary_accuracy": "Training accuracy",
    "figure_map": "mAP on {split}",
    "figure_learning_rate": "Learning rate",
    "figure_classes": "AP by class ({protocol})",
    "figure_together": "Labels that occur together",
    "figure_differences": "Difference in mAP ({protocol})",
    "figure_sigmoid": "Scores of one photo",
    "figure_bce": "Binary cross-entropy",
    "figure_error": "{network}: held-out error, median and range over seeds",
    "figure_gradients": "{network}: gradient norm, median and range over seeds",
    "axis_epoch": "epoch",
    "axis_loss": "binary cross-entropy, nats",
    "axis_binary_accuracy": "correct labels, %",
    "always_no": "Answering no for every class already gets {share} % of the labels in {split} "
    "right.",
    "axis_map": "mAP (lab), %",
    "axis_learning_rate": "learning rate",
    "axis_ap": "AP, %",
    "axis_recall": "recall",
    "axis_precision": "precision",
    "axis_also": "share that also has",
    "axis_with": "of the photos with",
    "axis_difference": "points of mAP",
    "axis_score": "score",
    "axis_nats": "loss, nats",
    "axis_error": "error, %",
    "axis_gradients": "norm over all layers",
    "label_present": "class present",
    "label_absent": "class absent",
    "low_shot": "Low-shot SVMs",
    "low_shot_note": "{run}: SVMs of k positives and {negatives} k negatives a class, drawn "
    "{draws} times (seeds {seeds}): the mAP ({protocol}) on test, its mean and its deviation over "
    "the draws. Each k has one C, the best on the photos of train that were not drawn or, as in "
    "VISSL, the best on test itself, which flatters.",
    "column_k": "k",
    "column_classes_of_k": "classes",
    "column_chosen_on_train": "C by train",
    "column_chosen_on_test": "C by test",
    "label_curve": "More labels or fine-tuning? {name}",
    "label_curve_sentence": "<strong>{run}</strong>: {parts}. {more}",
    "label_curve_twice": "twice the labels: {gain}",
    "label_curve_finetuning": "fine-tuning instead of the probe: {gain}",
    "label_curve_neither": "neither: mAP {mean}",
    "label_curve_nothing": "nothing can be said: {why}",
    "label_curve_more_finetuning": "Fine-tuning brings more.",
    "label_curve_more_labels": "More labels bring more.",
    "label_curve_more_open": "Which brings more is open.",
    "label_curve_missing": "{share}: a draw has no positive photo of {classes}.",
    "label_curve_note": "mAP ({protocol}) on the same {count} test photos, in percent, the mean of "
    "{draws} draws of the labels; each draw’s subsets lie within one another, and near-duplicates "
    "stay together. The 95 % intervals are from resamples of the test photos, paired between all "
    "points, and from the spread of the draws. A dashed line is the power law, fitted to each "
    "resample. How wrong the law may be beyond the photos that there are is in no interval. Times "
    "are the median of the draws, with features but without decoding and test.",
    "why_few_photos": "there are fewer than 100 photos to train on",
    "why_few_shares": "fewer than four shares of the labels were measured",
    "why_one_draw": "one draw of the labels does not show its own spread",
    "why_misfit": "the points follow no power law",
    "why_flat": "the curve is flat within its noise",
    "why_falls": "the curve falls",
    "figure_label_curve": "mAP by the number of labelled photos",
    "axis_labelled": "labelled photos",
    "label_probe": "probe",
    "label_fine_tuned": "fine-tuned",
    "column_labels": "labels",
    "column_labelled": "photos",
    "column_map_probe": "mAP, probe",
    "column_map_fine_tuned": "mAP, fine-tuned",
    "column_gain": "difference",
    "column_time_probe": "time, probe",
    "column_time_fine_tuned": "time, fine-tuning",
    # Classes.
    "classes_note": "Dots show average precision, bars its 95 % interval. Classes are sorted by "
    "the AP of the best run.",
    "column_class": "class",
    "column_positives": "photos with it",
    "precision_recall": "Precision and recall",
    "together_note": "How to read it: a cell gives the share of the photos with the row’s class "
    "that also have the column’s class.",
    "thresholds": "Answers at the thresholds",
    "thresholds_chosen": "For <strong>{run}</strong> thresholds were chosen by {rule} on "
    "{chosen_on}. A photo has a class if its calibrated probability is at least the class’s "
    "threshold. Percent, with 95 % bootstrap intervals over the photos of {split}.",
    "thresholds_of_one": "For <strong>{run}</strong> the answer is the likeliest class, if its "
    "probability is at least the class’s threshold. Thresholds and calibration were chosen by "
    "{rule} on {chosen_on}. Percent, with 95 % bootstrap intervals over the photos of {split}.",
    "thresholds_likeliest": "For <strong>{run}</strong> the answer is the likeliest class: there "
    "are no scores of photos that it was not trained on to choose thresholds by. Percent, with "
    "95 % bootstrap intervals over the photos of {split}.",
    "thresholds_note": "* {note}: {classes}.",
    "thresholds_in_sample": "These answers were chosen on {split}, or it was trained on: on other "
    "photos expect worse.",
    "thresholds_half": "For <strong>{run}</strong> every threshold is 0.5: there are no scores of "
    "photos that it was not trained on to choose by. Percent, with 95 % bootstrap intervals over "
    "the photos of {split}.",
    "thresholds_gain": "The macro F1 is above that of 0.5 for every class by {gain} points.",
    "thresholds_calibration": "Calibration: the Brier score is {before} before and {after} after "
    "it.",
    "column_threshold": "threshold",
    "column_precision": "precision",
    "column_recall": "recall",
    "column_f1": "F1",
    "macro": "mean of the classes (macro)",
    "micro": "all answers together (micro)",
    "mistaken": "Confusions",
    "mistaken_note": "These are the mistakes of <strong>{run}</strong>. If n photos show a class, "
    "its n best-scored photos are taken. Those that do not show it are its false alarms. Each row "
    "counts the false alarms of one class in which another class is present.",
    "mistaken_none": "There are no false alarms.",
    "column_seen": "predicted",
    "column_there": "present",
    "column_count": "photos",
    "column_share": "% of the false alarms",
    # Photos.
    "photos_note": "These photos are from <strong>{run}</strong> on {split}. Each class has its "
    "best-scored photos with it, its best-scored photos without it, and its worst-scored photos "
    "with it.",
    "maps": "Show where the evidence for the class is",
    "maps_note": "The colour is the class activation map. Only evidence for the class is coloured, "
    "on a scale that ends at each photo’s own maximum. One cell of the map sees a large part of "
    "the photo.",
    "maps_exact": "The maps are exact, because the head sees only the mean of the last stage’s "
    "output: a map’s mean plus the class’s bias is the photo’s logit.",
    "maps_approximate": "The maps are approximate: a map’s mean plus the class’s bias is the "
    "photo’s logit, but the head transforms what it sees, looks at parts of the photo, or sees a "
    "token that sums it up, so that where the logit comes from is shared out by a rule.",
    "kind_hit": "Hits",
    "kind_false alarm": "False alarms",
    "kind_miss": "Misses",
    "none": "none",
    "alt_photo": "photo {photo}: {labels}",
    "not_known": "{name} (not known)",
    "photos_left_out": "{count} more classes are left out to keep the page small.",
    "photos_missing": "No run here has a gallery. Fine-tuning writes one "
    "(<code>gallery_test.npz</code>): <code>{command}</code>",
    # Questions.
    "missing": "A run that answers this is missing. Make it with:",
    "answered_from": "Answered from the runs on",
    "q_activation": "Which activation converges faster, and why?",
    "q_sigmoid": "Why a sigmoid and not a softmax?",
    "q_cross_entropy": "What does binary cross-entropy compute, and why does it suit several "
    "labels?",
    "q_freezing": "What does it mean to freeze everything but the last layer?",
    "q_probe": "What is the mAP of the linear probe?",
    "q_finetuning": "What is the mAP of fine-tuning?",
    "q_conclusion": "Conclusion",
    "on_network": "{network}, to reach {goal} accuracy: {found}",
    "study_diverged": "{gone} diverged at every learning rate, so the two can’t be compared.",
    "study_neither": "neither {fast} nor {slow} got there within {epochs} epochs, so it remains "
    "open which of the two is faster.",
    "study_single": "{fast} took {fast_epochs} epochs and {slow} {slow_epochs}. That is a single "
    "run of each, so nothing follows from it.",
    "study_tie": "{fast} took {fast_epochs} epochs and {slow} {slow_epochs}. That is a tie: the "
    "interval of the ratio, {ratio}, includes 1.",
    "study_faster": "<strong>{fast}</strong> took {fast_epochs} epochs and {slow} {slow_epochs}: "
    "{ratio} times as many.",
    "ratio_at_least": "more than {value} [at least {low}]",
    "study_why": "Why, in {networks}: on its way back to the first layer, the gradient is "
    "multiplied by the weights and by the slope of every unit. The slope of a sigmoid is at most "
    "1/4 and that of tanh at most 1; the slope of a ReLU is 1 wherever the unit is on.",
    "study_why_not": "{networks}: the slope of a sigmoid is at most 1/4 and that of a ReLU that is "
    "on is 1. That should favour ReLU, but these runs do not show it.",
    "study_gradients": "{network}: the gradient of {layer}, its first layer, has these mean norms "
    "in the first epoch: {found}. A step is the learning rate times the gradient, so a larger rate "
    "can make up for a smaller gradient.",
    "study_at_rate": "(learning rate {rate})",
    "study_idle": "{network}, at the end of training, in the layer with the most: {found}.",
    "study_saturated": "{share} % of {name} outputs saturated",
    "study_dead": "{share} % of {name} units dead",
    "sigmoid_several": "{share} % of the photos have more than one label. A photo has {mean} "
    "labels on average and at most {most}. A softmax makes the scores of a photo compete, because "
    "they must sum to 1. A sigmoid asks about each class separately.",
    "sigmoid_single": "None of these photos has more than one label (the average is {mean}), so a "
    "softmax would do as well. Sigmoids are right where a photo may have several labels, or none.",
    "sigmoid_one": "For example, photo {photo} shows {labels}: the scores of {run} sum to {total}. "
    "The softmax of the same logits has to share out 1 among the classes.",
    "one_label": "Each photo has one label. Of the photos in {split}, {accuracy} percent are taken "
    "for what they are, and {balanced} in the mean over the classes.",
    "bce_formula": "For each class with label y and score p it is −y ln p − (1 − y) ln(1 − p). "
    "That is −ln p if the class is present, and −ln(1 − p) if it is not. The {num_classes} terms "
    "are averaged. Each class is its own yes-or-no question, so any number of labels can be right.",
    "bce_one": "On photo {photo} the terms sum to {total}. Divided by {num_classes}, that is "
    "{mean}. The largest term, {worst_term}, is that of <em>{worst}</em>. Over all photos in "
    "{split} the mean is {loss}.",
    "bce_class": "class",
    "bce_label": "label y",
    "bce_score": "score p",
    "bce_term": "term, nats",
    "freezing_is": "If everything but the last layer is frozen, the network is a fixed function "
    "from a photo to its deep features, and the last layer is a logistic regression on them. That "
    "is the linear probe, except that the features are computed again at every step instead of "
    "once.",
    "freezing_tie": "The two agree, as expected.",
    "freezing_differ": "The two differ. They agree only if these are the same in both: epochs, "
    "learning rate, initial head, photo size and treatment of difficult labels.",
    "mean_ap": "<strong>{run}</strong>: mAP {means} on {split} ({count} photos); {train} on train "
    "({protocol}).",
    "mean_ap_alone": "<strong>{run}</strong>: mAP {means} on {split} ({count} photos).",
    "verdict_better": "<strong>{run}</strong> is better than {other}: {points} points of mAP "
    "{interval} ({protocol}; paired bootstrap over the same photos).",
    "verdict_tie": "{run} and {other} are tied: {points} points of mAP {interval}, an interval "
    "that includes 0 ({protocol}; paired bootstrap over the same photos).",
    "verdict_none": "{run} and {other} can’t be compared: no class has a positive photo.",
    "conclusion_best": "On {name}, <strong>{run}</strong> has the highest mAP on {split}.",
    "conclusion_more": "{count} more runs are in the table.",
    "conclusion_pretraining_better": "Pretraining pays: {run} has {points} points of mAP "
    "{interval} compared with {scratch}, the run from random initialisation.",
    "conclusion_pretraining_tie": "It remains open whether pretraining pays: {run} has {points} "
    "points of mAP {interval} compared with {scratch}, the run from random initialisation.",
    "conclusion_pretraining_worse": "Pretraining did not pay: {run} has {points} points of mAP "
    "{interval} compared with {scratch}, the run from random initialisation.",
    # Trust.
    "warnings": "Warnings",
    "no_warnings": "The checks found nothing unusual.",
    "made_of": "How each run was made",
    "fact_command": "config",
    "fact_weights": "weights",
    "fact_data": "data",
    "fact_ids": "sha256 of the ids in {role}",
    "fact_digits": "sha256 of the digits in {role}",
    "fact_preprocessing": "preprocessing",
    "fact_features": "features",
    "fact_head": "head",
    "fact_mix": "trained weights, mixed with the start’s",
    "fact_versions": "versions",
    "fact_devices": "devices",
    "fact_commit": "commit",
    "fact_config": "complete config",
    "warn_all_constant": "All photos in {role} have the same scores: the network or its features "
    "are constant.",
    "warn_constant": "All photos in {role} have the same score for {classes}.",
    "warn_no_probabilities": "The scores on {role} range from {low} to {high}, so they are not "
    "probabilities. The page works out no example from them.",
    "warn_no_ids": "The scores on {role} have no ids, so nobody can check which photo a row "
    "belongs to.",
    "warn_repeated_ids": "Some photos occur more than once in {role}.",
    "warn_other_ids": "The ids of the scores on {role} do not match their sha256 in results.json. "
    "Rows may belong to other photos.",
    "warn_other_count": "There are {rows} rows of scores on {role}, but results.json says {images} "
    "photos.",
    "warn_other_map": "results.json states an mAP of {stated} ({protocol}) on {role}, but the "
    "scores beside it give {computed}.",
    "warn_other_file": "{file} isn’t the file whose sha256 is in results.json.",
    "warn_other_labels": "The labels of the scores on {role} aren’t those that the run was begun "
    "with, by the sha256 in made_of.json.",
    "warn_other_difficult": "The difficult flags of the scores on {role} aren’t those that the "
    "run was begun with, by the sha256 in made_of.json.",
    "warn_ties": "On {role}, {count} of {images} photos are tied in {name}: photos with and "
    "without the class rank exactly equal, as saturated scores do. How ties are broken decides its "
    "AP, and voc2007 and voc2010 take the order of the file. Classes with ties: {classes}.",
    "warn_other_logits": "The logits on {role} do not belong to the scores beside them.",
    "warn_overlap": "{count} photos are in both {role} and {other}.",
    "warn_above_train": "The mAP on {role} is higher than that on train: its interval starts at "
    "{low}, and train has {train}. Were the splits swapped, or is train harder?",
    "warn_not_computable": "{protocol} can’t be computed: {reason}.",
    "warn_none_difficult": "No photo in {role} is flagged difficult. If the data set has such "
    "flags and they were lost, voc2007 and voc2010 are not those of the devkit.",
    "warn_not_voc2007": "The data is called voc2007, but VOC2007 has 5,011 and 4,952 photos, and "
    "this has {train} and {test}. Do not compare it with published results.",
    "warn_without_positives": "Left out of mAP because no photo in {role} shows it: {classes}.",
    "warn_untrained": "It was trained for 0 epochs.",
    "warn_resumed": "It was stopped, then resumed from step {step}.",
    "warn_unfinished": "Its status is {status}, not finished.",
    "warn_selected_on_test": "The test split, {split}, was also used for training or selection. "
    "Its mAP says nothing about new photos.",
    "warn_only_train": "There is no test split: this mAP is on the photos it was trained on.",
    "warn_only_val": "There is no test split: this mAP is on the photos that its checkpoint was "
    "chosen on.",
    "warn_no_commit": "Its commit is unknown: the code did not run in a git checkout.",
    "warn_dirty": "The code had changes that are not in commit {commit}.",
    "warn_best_on_test": "The best run is marked by its mAP on test. To choose a run by it is to "
    "select on test. Choose on a val split instead, and expect less than the number here.",
    "warn_different_weights": "The runs start from {count} different sets of weights.",
    "warn_different_train_split": "The runs were trained on {count} different sets of photos.",
    "warn_different_jax": "The runs were made with {count} versions of jax.",
    "warn_diverged": "{network} with {activation} diverged at every learning rate.",
    "warn_grids_edge": "{network} with {activation}: the best learning rate, {rate}, is at the "
    "edge of the grid. A wider grid may hold a better one.",
    "warn_few_seeds": "The study has fewer than 5 seeds ({count}), so its intervals say little.",
    # The class.
    "class_title": "A class: {count} runs",
    "class_counts": "{ranked} of {count} runs are ranked, by an mAP ({protocol}) that was "
    "computed from the scores in each run’s directory, and not taken from its results.json.",
    "class_ask": "Not ranked: edited, copied, or not comparable",
    "class_ask_note": "Of runs with the same scores the first by name keeps its rank: the files "
    "don’t tell whose they were.",
    "class_others": "Not ranked: other reasons",
    "class_table": "All runs",
    "class_table_note": "The columns on the right are the knobs that differ between runs of the "
    "same task, but for paths.",
    "class_knobs_left_out": "{count} more knobs differ.",
    "class_of_data": "Ranks are by data set: runs on other photos are not compared.",
    "class_intervals": "mAP is in percent, with 95 % bootstrap intervals over photos. "
    "<code>lab</code> is scikit-learn’s average precision and counts difficult photos as "
    "negatives.",
    "class_remarks": "Warnings",
    "column_rank": "rank",
    "column_kind": "kind",
    "column_data": "data",
    "regime_relu_study": "ReLU study",
    "regime_learning_curve": "learning curve",
    "status_edited": "edited",
    "status_copy": "copy",
    "status_labels": "other labels",
    "status_photos": "other photos",
    "status_saw_test": "saw test",
    "status_unfinished": "unfinished",
    "status_unreadable": "unreadable",
    "status_no_map": "no mAP",
    "why_line": '<span lang="en">{line}</span>',
    "why_no_map": "A study of many trainings has no mAP of its own.",
    "why_no_positives": "No class has a positive photo, so there is no mAP.",
    "why_other_photos": "Its photos or classes aren’t those of the {count} other runs on data of "
    "this name.",
    "why_other_labels": "Its labels aren’t those of {count} other runs on the same photos.",
    "why_labels_differ": "The {count} runs on these photos have different labels, and none are "
    "those of most.",
    "why_copied": "Its scores are those of {other}, bit for bit, and so are its times or "
    "checkpoints: files were copied.",
    "why_same_of_another": "Its scores are those of {other}, bit for bit, though its config or "
    "data are others.",
    "class_same": "Ranked, with the scores of another run",
    "class_same_note": "The same command with the same seed gives the same scores on the same "
    "kind of machine. So do copied files whose times were edited.",
    "class_same_as": "with the scores of {other}, bit for bit, and times of their own.",
    "why_same_checkpoints": "Its checkpoints are those of {other}, file by file, but its scores "
    "are others.",
}
