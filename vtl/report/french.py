"""The page in French. Values in braces are filled in; the rest may hold HTML."""

WORDS = {
    "title": "Apprentissage par transfert visuel : {names}",
    "num_runs": "{count} exécutions",
    "num_more": "{count} autres",
    "and": "et",
    "semicolon": " ; ",
    "nothing": "rien",
    "no_bound": "sans borne",
    "skip": "Aller au contenu",
    "made_by": "Produit par <code>{command}</code> (vtl {version}).",
    "refused": "Écarté :",
    # Sections.
    "summary": "Résumé",
    "curves": "Courbes",
    "classes": "Classes",
    "photos": "Photos",
    "questions": "Les questions du TP",
    "trust": "Confiance",
    "data_set": "{name} : {count} photos de <em>{split}</em>, {classes} classes",
    "unnamed_data": "données sans nom",
    "apart": "Les exécutions sur d’autres photos ou d’autres classes sont comparées séparément, "
    "chaque groupe dans son propre tableau.",
    # Summary.
    "headline_best": "Sur {name}, <strong>{run}</strong> a la plus haute mAP sur {split} : {mean} "
    "({protocol}).",
    "headline_tied": "Sur {name}, <strong>{run}</strong> a la plus haute mAP sur {split}, {mean} "
    "({protocol}), mais elle est à égalité avec {others}.",
    "headline_alone": "Sur {name}, <strong>{run}</strong> a une mAP de {mean} sur {split} "
    "({protocol}).",
    "headline_none": "Sur {name}, aucune exécution n’est classée : ce qui parle contre chacune "
    "est sous Confiance.",
    "protocols": "La mAP et l’AP sont en pour cent, avec des intervalles à 95 % par bootstrap sur "
    "les photos. Un tirage répète des photos, ce qui relève un peu l’AP : les intervalles sont "
    "donc placés un peu haut. <code>lab</code> est l’average precision de scikit-learn et compte "
    "les photos difficiles comme négatives. <code>voc2007</code> est l’AP à 11 points et "
    "<code>voc2010</code> l’aire sous la courbe interpolée ; toutes deux laissent les photos "
    "difficiles de côté. La durée d’une sonde ne comprend pas l’extraction de ses descripteurs.",
    "sortable": "Cliquer sur un titre de colonne pour trier.",
    "best": "meilleure",
    "not_ranked": "non classée",
    "column_run": "exécution",
    "column_regime": "ce qui est entraîné",
    "column_weights": "poids",
    "column_photos": "photos d’entraînement",
    "column_map": "mAP, {protocol}",
    "column_train_map": "mAP sur train, {protocol}",
    "column_parameters": "paramètres entraînés",
    "column_rate": "photos/s",
    "column_time": "durée",
    "column_seed": "graine",
    "column_commit": "commit",
    "regime_probe": "sonde linéaire",
    "regime_head": "tête",
    "regime_partial": "quelques couches",
    "regime_full": "toutes les couches",
    "regime_scratch": "toutes les couches, à partir de zéro",
    "no_weights": "aucun",
    "unknown": "–",
    "published": "Résultats publiés, pour comparaison",
    "published_note": "Réseaux ImageNet supervisés sur VOC2007, entraînés sur trainval et testés "
    "sur test. Ne comparer que des résultats de même average precision, de mêmes photos difficiles "
    "et de même entrée.",
    "column_source": "source",
    "column_model": "réseau",
    "column_ap": "average precision",
    "column_difficult": "photos difficiles",
    "column_input": "entrée",
    "study": "L’étude ReLU : {name}",
    "study_note": "Le tableau donne le nombre d’époques qu’il faut pour atteindre l’exactitude du "
    "titre sur les chiffres mis de côté, ou pour arriver à 1 % de leur perte minimale : la médiane "
    "de {seeds} graines avec son intervalle à 95 %. Chaque activation a son propre meilleur taux "
    "d’apprentissage.",
    "column_network": "réseau",
    "column_activation": "activation",
    "column_learning_rate": "taux d’apprentissage",
    "column_lowest_loss": "perte minimale, époques",
    "column_test_accuracy": "exactitude sur test",
    "study_all_diverged": "a divergé",
    # Figures.
    "figure_loss": "Perte d’entraînement",
    "figure_binary_accuracy": "Exactitude d’entraînement",
    "figure_map": "mAP sur {split}",
    "figure_learning_rate": "Taux d’apprentissage",
    "figure_classes": "AP par classe ({protocol})",
    "figure_together": "Étiquettes présentes ensemble",
    "figure_differences": "Différence de mAP ({protocol})",
    "figure_sigmoid": "Scores d’une photo",
    "figure_bce": "Entropie croisée binaire",
    "figure_error": "{network} : erreur sur les chiffres mis de côté, médiane et étendue des "
    "graines",
    "figure_gradients": "{network} : norme du gradient, médiane et étendue des graines",
    "axis_epoch": "époque",
    "axis_loss": "entropie croisée binaire, nats",
    "axis_binary_accuracy": "étiquettes justes, %",
    "always_no": "Répondre non à toutes les classes donne déjà {share} % d’étiquettes justes sur "
    "{split}.",
    "axis_map": "mAP (lab), %",
    "axis_learning_rate": "taux d’apprentissage",
    "axis_ap": "AP, %",
    "axis_recall": "rappel",
    "axis_precision": "précision",
    "axis_also": "part qui a aussi",
    "axis_with": "parmi les photos avec",
    "axis_difference": "points de mAP",
    "axis_score": "score",
    "axis_nats": "perte, nats",
    "axis_error": "erreur, %",
    "axis_gradients": "norme sur toutes les couches",
    "label_present": "classe présente",
    "label_absent": "classe absente",
    "low_shot": "SVM sur peu d’exemples",
    "low_shot_note": "{run} : SVM sur k positifs et {negatives} k négatifs par classe, tirés "
    "{draws} fois (graines {seeds}) : la mAP ({protocol}) sur test, sa moyenne et son écart type. "
    "Chaque k a un seul C, le meilleur sur les photos de train qui n’ont pas été tirées ou, comme "
    "dans VISSL, le meilleur sur test même, ce qui flatte.",
    "column_k": "k",
    "column_classes_of_k": "classes",
    "column_chosen_on_train": "C choisi sur train",
    "column_chosen_on_test": "C choisi sur test",
    "label_curve": "Plus d’étiquettes ou fine-tuning ? {name}",
    "label_curve_sentence": "<strong>{run}</strong> : {parts}. {more}",
    "label_curve_twice": "deux fois plus d’étiquettes : {gain}",
    "label_curve_finetuning": "fine-tuning au lieu de la sonde : {gain}",
    "label_curve_neither": "ni l’un ni l’autre : mAP {mean}",
    "label_curve_nothing": "on ne peut rien dire : {why}",
    "label_curve_more_finetuning": "Le fine-tuning apporte plus.",
    "label_curve_more_labels": "Plus d’étiquettes apportent plus.",
    "label_curve_more_open": "Lequel apporte le plus reste ouvert.",
    "label_curve_missing": "{share} : un tirage n’a aucune photo positive de {classes}.",
    "label_curve_note": "mAP ({protocol}) sur les mêmes {count} photos de test, en pour cent, "
    "moyenne de {draws} tirages des étiquettes ; les sous-ensembles d’un tirage sont emboîtés, et "
    "les quasi-doublons restent ensemble. Les intervalles à 95 % viennent de tirages des photos de "
    "test, appariés entre tous les points, et de la dispersion des tirages d’étiquettes. Un trait "
    "pointillé est la loi de puissance, ajustée à chaque tirage. L’erreur de la loi au-delà des "
    "photos disponibles n’est dans aucun intervalle. Les durées sont la médiane des tirages, avec "
    "les descripteurs mais sans le décodage ni le test.",
    "why_few_photos": "il y a moins de 100 photos d'entraînement",
    "why_few_shares": "moins de quatre parts des étiquettes ont été mesurées",
    "why_one_draw": "un seul tirage des étiquettes ne montre pas sa dispersion",
    "why_misfit": "les points ne suivent pas de loi de puissance",
    "why_flat": "la courbe est plate, à son bruit près",
    "why_falls": "la courbe descend",
    "figure_label_curve": "mAP selon le nombre de photos étiquetées",
    "axis_labelled": "photos étiquetées",
    "label_probe": "sonde",
    "label_fine_tuned": "fine-tuning",
    "column_labels": "étiquettes",
    "column_labelled": "photos",
    "column_map_probe": "mAP, sonde",
    "column_map_fine_tuned": "mAP, fine-tuning",
    "column_gain": "différence",
    "column_time_probe": "durée, sonde",
    "column_time_fine_tuned": "durée, fine-tuning",
    # Classes.
    "classes_note": "Les points montrent l’average precision, les traits son intervalle à 95 %. "
    "Les classes sont triées selon l’AP de la meilleure exécution.",
    "column_class": "classe",
    "column_positives": "photos avec",
    "precision_recall": "Précision et rappel",
    "together_note": "Lecture : une case donne, parmi les photos qui ont la classe de la ligne, la "
    "part de celles qui ont aussi la classe de la colonne.",
    "thresholds": "Réponses aux seuils",
    "thresholds_chosen": "Pour <strong>{run}</strong>, les seuils ont été choisis par {rule} "
    "(<span lang='en'>{chosen_on}</span>). Une photo a une classe si sa probabilité calibrée "
    "atteint le seuil de la classe. En pour cent, avec des intervalles bootstrap à 95 % sur les "
    "photos de {split}.",
    "thresholds_of_one": "Pour <strong>{run}</strong>, la réponse est la classe la plus probable, "
    "si sa probabilité atteint le seuil de la classe. Seuils et calibration ont été choisis par "
    "{rule} (<span lang='en'>{chosen_on}</span>). En pour cent, avec des intervalles bootstrap à "
    "95 % sur les photos de {split}.",
    "thresholds_likeliest": "Pour <strong>{run}</strong>, la réponse est la classe la plus "
    "probable : il n’y a pas de photos hors de l’entraînement pour choisir des seuils. En pour "
    "cent, avec des intervalles bootstrap à 95 % sur les photos de {split}.",
    "thresholds_note": "* <span lang='en'>{note}</span> : {classes}.",
    "thresholds_in_sample": "Ces réponses ont été choisies sur {split}, ou l’entraînement l’a vu : "
    "attendez moins d’autres photos.",
    "thresholds_half": "Pour <strong>{run}</strong>, chaque seuil est 0,5 : il n’y a pas de photos "
    "hors de l’entraînement pour les choisir. En pour cent, avec des intervalles bootstrap à 95 % "
    "sur les photos de {split}.",
    "thresholds_gain": "Le F1 macro dépasse de {gain} points celui de 0,5 pour chaque classe.",
    "thresholds_calibration": "Calibration : le score de Brier est de {before} avant et de {after} "
    "après.",
    "column_threshold": "seuil",
    "column_precision": "précision",
    "column_recall": "rappel",
    "column_f1": "F1",
    "macro": "moyenne des classes (macro)",
    "micro": "toutes les réponses (micro)",
    "mistaken": "Confusions",
    "mistaken_note": "Voici les erreurs de <strong>{run}</strong>. Si n photos montrent une "
    "classe, on prend les n photos les mieux notées pour elle. Celles qui ne la montrent pas sont "
    "ses fausses alarmes. Chaque ligne compte les fausses alarmes d’une classe où une autre classe "
    "est présente.",
    "mistaken_none": "Il n’y a aucune fausse alarme.",
    "column_seen": "prédite",
    "column_there": "présente",
    "column_count": "photos",
    "column_share": "% des fausses alarmes",
    # Photos.
    "photos_note": "Ces photos viennent de <strong>{run}</strong> sur {split}. Pour chaque "
    "classe : les photos les mieux notées qui l’ont, les mieux notées qui ne l’ont pas, et les "
    "moins bien notées qui l’ont.",
    "maps": "Montrer où se trouve ce qui parle pour la classe",
    "maps_note": "La couleur est la carte d’activation de la classe. Seul ce qui parle pour la "
    "classe est coloré, selon le maximum propre à chaque photo. Une case de la carte voit une "
    "grande partie de la photo.",
    "maps_exact": "Les cartes sont exactes, car la tête ne voit que la moyenne de la sortie du "
    "dernier étage : la moyenne d’une carte plus le biais de la classe donne le logit de la photo.",
    "maps_approximate": "Les cartes sont approchées : la moyenne d’une carte plus le biais de la "
    "classe donne le logit de la photo, mais la tête transforme ce qu’elle voit, regarde des "
    "parties de la photo ou voit un jeton qui la résume, si bien qu’une règle répartit l’origine "
    "du logit.",
    "kind_hit": "Trouvées",
    "kind_false alarm": "Fausses alarmes",
    "kind_miss": "Manquées",
    "none": "aucune",
    "alt_photo": "photo {photo} : {labels}",
    "not_known": "{name} (non renseigné)",
    "photos_left_out": "{count} autres classes sont omises pour que la page reste petite.",
    "photos_missing": "Aucune exécution n’a ici de galerie. Le réglage fin en écrit une "
    "(<code>gallery_test.npz</code>) : <code>{command}</code>",
    # Questions.
    "missing": "Une exécution qui réponde à cette question manque. Pour la produire :",
    "answered_from": "Réponses tirées des exécutions sur",
    "q_activation": "Quelle activation converge le plus vite, et pourquoi ?",
    "q_sigmoid": "Pourquoi une sigmoïde et pas un softmax ?",
    "q_cross_entropy": "Que calcule l’entropie croisée binaire, et pourquoi convient-elle à "
    "plusieurs étiquettes ?",
    "q_freezing": "Que veut dire geler tout sauf la dernière couche ?",
    "q_probe": "Quelle est la mAP de la sonde linéaire ?",
    "q_finetuning": "Quelle est la mAP du réglage fin ?",
    "q_conclusion": "Conclusion",
    "on_network": "{network}, pour atteindre {goal} d’exactitude : {found}",
    "study_diverged": "{gone} : divergence à tous les taux d’apprentissage, donc les deux ne se "
    "comparent pas.",
    "study_neither": "ni {fast} ni {slow} n’y arrive en {epochs} époques ; on ne sait donc pas "
    "laquelle des deux est la plus rapide.",
    "study_single": "{fast} a mis {fast_epochs} époques et {slow} {slow_epochs}. Ce n’est qu’une "
    "seule exécution de chacune : on ne peut rien en conclure.",
    "study_tie": "{fast} a mis {fast_epochs} époques et {slow} {slow_epochs}. Il y a égalité : "
    "l’intervalle du rapport, {ratio}, contient 1.",
    "study_faster": "<strong>{fast}</strong> a mis {fast_epochs} époques et {slow} {slow_epochs} : "
    "{ratio} fois autant.",
    "ratio_at_least": "plus de {value} [au moins {low}]",
    "study_why": "Pourquoi, dans {networks} : en revenant vers la première couche, le gradient est "
    "multiplié par les poids et par la pente de chaque unité. La pente d’une sigmoïde est d’au "
    "plus 1/4 et celle de tanh d’au plus 1 ; celle d’une ReLU est de 1 là où l’unité est active.",
    "study_why_not": "{networks} : la pente d’une sigmoïde est d’au plus 1/4 et celle d’une ReLU "
    "active est de 1. Cela devrait favoriser ReLU, mais ces exécutions ne le montrent pas.",
    "study_gradients": "{network} : le gradient de {layer}, sa première couche, a ces normes "
    "moyennes pendant la première époque : {found}. Un pas est le taux d’apprentissage fois le "
    "gradient : un taux plus grand peut donc compenser un gradient plus petit.",
    "study_at_rate": "(taux d’apprentissage {rate})",
    "study_idle": "{network}, à la fin de l’entraînement, dans la couche qui en a le plus : "
    "{found}.",
    "study_saturated": "{share} % de sorties {name} saturées",
    "study_dead": "{share} % d’unités {name} mortes",
    "sigmoid_several": "{share} % des photos ont plus d’une étiquette. Étiquettes par photo : "
    "{mean} en moyenne, {most} au plus. Un softmax met en concurrence les scores d’une photo, car "
    "leur somme doit être 1. Une sigmoïde pose la question pour chaque classe séparément.",
    "sigmoid_single": "Aucune de ces photos n’a plus d’une étiquette (la moyenne est de {mean}) : "
    "un softmax ferait donc aussi bien. Les sigmoïdes conviennent là où une photo peut avoir "
    "plusieurs étiquettes, ou aucune.",
    "sigmoid_one": "Par exemple, la photo {photo} montre {labels} : la somme des scores de {run} "
    "est {total}. Le softmax des mêmes logits doit partager 1 entre les classes.",
    "one_label": "Chaque photo a une seule étiquette. Parmi les photos de {split}, {accuracy} pour "
    "cent sont reconnues, et {balanced} en moyenne sur les classes.",
    "bce_formula": "Pour chaque classe d’étiquette y et de score p, c’est −y ln p − (1 − y) ln(1 − "
    "p). C’est donc −ln p si la classe est présente, et −ln(1 − p) si elle ne l’est pas. On fait "
    "la moyenne des {num_classes} termes. Chaque classe est une question à part, par oui ou par "
    "non : n’importe quel nombre d’étiquettes peut donc être juste.",
    "bce_one": "Sur la photo {photo}, la somme des termes est {total}. Divisée par {num_classes}, "
    "elle donne {mean}. Le plus grand terme, {worst_term}, est celui de <em>{worst}</em>. La "
    "moyenne sur toutes les photos de {split} est {loss}.",
    "bce_class": "classe",
    "bce_label": "étiquette y",
    "bce_score": "score p",
    "bce_term": "terme, nats",
    "freezing_is": "Si tout est gelé sauf la dernière couche, le réseau est une fonction fixe "
    "d’une photo vers ses descripteurs profonds, et la dernière couche est une régression "
    "logistique sur ceux-ci. C’est la sonde linéaire, sauf que les descripteurs sont recalculés à "
    "chaque étape au lieu de l’être une seule fois.",
    "freezing_tie": "Les deux s’accordent, comme prévu.",
    "freezing_differ": "Les deux diffèrent. Elles ne s’accordent que si tout ceci est identique : "
    "les époques, le taux d’apprentissage, la tête initiale, la taille des photos et le traitement "
    "des étiquettes difficiles.",
    "mean_ap": "<strong>{run}</strong> : mAP {means} sur {split} ({count} photos) ; {train} sur "
    "train ({protocol}).",
    "mean_ap_alone": "<strong>{run}</strong> : mAP {means} sur {split} ({count} photos).",
    "verdict_better": "<strong>{run}</strong> est meilleure que {other} : {points} points de mAP "
    "{interval} ({protocol} ; bootstrap apparié sur les mêmes photos).",
    "verdict_tie": "{run} et {other} sont à égalité : {points} points de mAP {interval}, un "
    "intervalle qui contient 0 ({protocol} ; bootstrap apparié sur les mêmes photos).",
    "verdict_none": "{run} et {other} ne se comparent pas : aucune classe n’a de photo positive.",
    "conclusion_best": "Sur {name}, <strong>{run}</strong> a la plus haute mAP sur {split}.",
    "conclusion_more": "{count} autres exécutions sont dans le tableau.",
    "conclusion_pretraining_better": "Le préentraînement paie : {run} a {points} points de mAP "
    "{interval} par rapport à {scratch}, l’exécution partie de poids aléatoires.",
    "conclusion_pretraining_tie": "On ne sait pas si le préentraînement paie : {run} a {points} "
    "points de mAP {interval} par rapport à {scratch}, l’exécution partie de poids aléatoires.",
    "conclusion_pretraining_worse": "Le préentraînement n’a pas payé : {run} a {points} points de "
    "mAP {interval} par rapport à {scratch}, l’exécution partie de poids aléatoires.",
    # Trust.
    "warnings": "Avertissements",
    "no_warnings": "Les vérifications n’ont rien trouvé d’inhabituel.",
    "made_of": "Comment chaque exécution a été produite",
    "fact_command": "configuration",
    "fact_weights": "poids",
    "fact_data": "données",
    "fact_ids": "sha256 des identifiants de {role}",
    "fact_digits": "sha256 des chiffres de {role}",
    "fact_preprocessing": "prétraitement",
    "fact_features": "descripteurs",
    "fact_head": "tête",
    "fact_mix": "poids entraînés, mêlés à ceux du départ",
    "fact_versions": "versions",
    "fact_devices": "matériel",
    "fact_commit": "commit",
    "fact_config": "configuration complète",
    "warn_all_constant": "Toutes les photos de {role} ont les mêmes scores : le réseau ou ses "
    "descripteurs sont constants.",
    "warn_constant": "Toutes les photos de {role} ont le même score pour {classes}.",
    "warn_no_probabilities": "Les scores sur {role} vont de {low} à {high} : ce ne sont donc pas "
    "des probabilités. La page n’en tire aucun exemple.",
    "warn_no_ids": "Les scores sur {role} n’ont pas d’identifiants : on ne peut pas vérifier à "
    "quelle photo appartient une ligne.",
    "warn_repeated_ids": "Des photos figurent plus d’une fois dans {role}.",
    "warn_other_ids": "Les identifiants des scores sur {role} ne correspondent pas à leur sha256 "
    "dans results.json. Des lignes peuvent appartenir à d’autres photos.",
    "warn_other_count": "Il y a {rows} lignes de scores sur {role}, mais results.json annonce "
    "{images} photos.",
    "warn_other_map": "results.json annonce une mAP de {stated} ({protocol}) sur {role}, mais les "
    "scores à côté donnent {computed}.",
    "warn_other_file": "{file} n’est pas le fichier dont le sha256 est dans results.json.",
    "warn_other_labels": "Les étiquettes des scores sur {role} ne sont pas celles du début de "
    "l’exécution, d’après le sha256 dans made_of.json.",
    "warn_other_difficult": "Les marques « difficile » des scores sur {role} ne sont pas celles "
    "du début de l’exécution, d’après le sha256 dans made_of.json.",
    "warn_ties": "Sur {role}, {count} photos sur {images} sont ex æquo pour {name} : des photos "
    "avec et sans la classe ont exactement le même rang, comme des scores saturés. La façon de les "
    "départager décide de son AP, et voc2007 et voc2010 prennent l’ordre du fichier. Classes avec "
    "des ex æquo : {classes}.",
    "warn_other_logits": "Les logits sur {role} ne sont pas ceux des scores à côté d’eux.",
    "warn_overlap": "{count} photos sont à la fois dans {role} et dans {other}.",
    "warn_above_train": "La mAP sur {role} dépasse celle sur train : son intervalle commence à "
    "{low}, et train a {train}. Les jeux ont-ils été échangés, ou train est-il plus difficile ?",
    "warn_not_computable": "{protocol} ne peut pas être calculé : {reason}.",
    "warn_none_difficult": "Aucune photo de {role} n’est marquée difficile. Si le jeu de données a "
    "de telles marques et qu’elles ont été perdues, voc2007 et voc2010 ne sont pas ceux du devkit.",
    "warn_not_voc2007": "Les données s’appellent voc2007, mais VOC2007 a 5 011 et 4 952 photos, et "
    "il y en a ici {train} et {test}. Ne pas les comparer aux résultats publiés.",
    "warn_without_positives": "Hors de la mAP, car aucune photo de {role} ne montre cela : "
    "{classes}.",
    "warn_untrained": "Elle a été entraînée pendant 0 époque.",
    "warn_resumed": "Elle a été arrêtée, puis reprise à l’étape {step}.",
    "warn_unfinished": "Son statut est {status}, et non finished.",
    "warn_selected_on_test": "Le jeu de test, {split}, a aussi servi à entraîner ou à choisir. Sa "
    "mAP ne dit rien sur de nouvelles photos.",
    "warn_only_train": "Il n’y a pas de jeu de test : cette mAP est sur les photos d’entraînement.",
    "warn_only_val": "Il n’y a pas de jeu de test : cette mAP est sur les photos qui ont servi à "
    "choisir le point de reprise.",
    "warn_no_commit": "Son commit est inconnu : le code n’a pas tourné dans un dépôt git.",
    "warn_dirty": "Le code avait des modifications qui ne sont pas dans le commit {commit}.",
    "warn_best_on_test": "La meilleure exécution est marquée par sa mAP sur test. Choisir d’après "
    "elle, c’est choisir sur test. Choisir plutôt sur un jeu de validation, et attendre moins que "
    "le nombre donné ici.",
    "warn_different_weights": "Les exécutions partent de {count} jeux de poids différents.",
    "warn_different_train_split": "Les exécutions ont été entraînées sur {count} ensembles de "
    "photos différents.",
    "warn_different_jax": "Les exécutions ont été faites avec {count} versions de jax.",
    "warn_diverged": "{network} avec {activation} a divergé à tous les taux d’apprentissage.",
    "warn_grids_edge": "{network} avec {activation} : le meilleur taux d’apprentissage, {rate}, "
    "est au bord de la grille. Une grille plus large peut en contenir un meilleur.",
    "warn_few_seeds": "L’étude a moins de 5 graines ({count}) : ses intervalles disent donc peu de "
    "chose.",
    # The class.
    "class_title": "Une classe : {count} exécutions",
    "class_counts": "{ranked} exécutions sur {count} sont classées, d’après une mAP ({protocol}) "
    "calculée avec les scores du répertoire de chacune, et non reprise de son results.json.",
    "class_ask": "Non classées : modifiées, copiées ou pas comparables",
    "class_ask_note": "Parmi les exécutions aux mêmes scores, la première par le nom garde son "
    "rang : les fichiers ne disent pas de qui ils sont.",
    "class_others": "Non classées : autres raisons",
    "class_table": "Toutes les exécutions",
    "class_table_note": "Les colonnes de droite sont les réglages qui diffèrent entre exécutions "
    "de la même tâche, chemins exceptés.",
    "class_knobs_left_out": "{count} autres réglages diffèrent.",
    "class_of_data": "Les rangs sont par jeu de données : on ne compare pas des exécutions sur "
    "d’autres photos.",
    "class_intervals": "La mAP est en pour cent, avec des intervalles à 95 % par bootstrap sur "
    "les photos. <code>lab</code> est l’average precision de scikit-learn et compte les photos "
    "difficiles comme négatives.",
    "class_remarks": "Avertissements",
    "column_rank": "rang",
    "column_kind": "genre",
    "column_data": "données",
    "regime_relu_study": "étude de ReLU",
    "regime_learning_curve": "courbe d’apprentissage",
    "status_edited": "modifiée",
    "status_copy": "copie",
    "status_labels": "autres étiquettes",
    "status_photos": "autres photos",
    "status_saw_test": "a vu le test",
    "status_unfinished": "inachevée",
    "status_unreadable": "illisible",
    "status_no_map": "sans mAP",
    "why_line": '<span lang="en">{line}</span>',
    "why_no_map": "Une étude de plusieurs entraînements n’a pas de mAP à elle.",
    "why_no_positives": "Aucune classe n’a de photo positive : il n’y a pas de mAP.",
    "why_other_photos": "Ses photos ou ses classes ne sont pas celles des {count} autres "
    "exécutions sur des données de ce nom.",
    "why_other_labels": "Ses étiquettes ne sont pas celles de {count} autres exécutions sur les "
    "mêmes photos.",
    "why_labels_differ": "Les {count} exécutions sur ces photos ont des étiquettes différentes, "
    "et aucune n’a celles de la plupart.",
    "why_copied": "Ses scores sont ceux de {other}, bit à bit, et ses durées ou ses points de "
    "reprise aussi : des fichiers ont été copiés.",
    "why_same_of_another": "Ses scores sont ceux de {other}, bit à bit, bien que sa configuration "
    "ou ses données soient autres.",
    "class_same": "Classées, avec les scores d’une autre",
    "class_same_note": "La même commande avec la même graine donne les mêmes scores sur le même "
    "genre de machine. Des fichiers copiés dont on a modifié les durées aussi.",
    "class_same_as": "avec les scores de {other}, bit à bit, et des durées à elles.",
    "why_same_checkpoints": "Ses points de reprise sont ceux de {other}, fichier par fichier, "
    "mais ses scores sont autres.",
}
