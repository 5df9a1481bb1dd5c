"""The page in French. Values in braces are put in; the rest may hold HTML."""

WORDS = {
    "title": "Apprentissage par transfert visuel : {names}",
    "and": "et",
    "nothing": "rien",
    "no_bound": "sans borne",
    "skip": "Aller au contenu",
    "made_by": "Fait par <code>{command}</code> (vtl {version}).",
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
    "apart": "Les exécutions sur d’autres photos ou classes sont comparées à part, jamais dans une "
    "même colonne.",
    # Summary.
    "headline_best": "Sur {name}, <strong>{run}</strong> a la plus haute mAP sur {split} : {mean} "
    "({protocol}).",
    "headline_tied": "Sur {name}, <strong>{run}</strong> a la plus haute mAP sur {split}, {mean} "
    "({protocol}) ; pas de différence établie avec {others}.",
    "headline_alone": "Sur {name}, <strong>{run}</strong> a une mAP de {mean} sur {split} "
    "({protocol}).",
    "protocols": "mAP et AP sont en pour cent, avec des intervalles à 95 % d’un bootstrap sur les "
    "photos ; des photos y figurent plusieurs fois, ce qui relève un peu l’AP : les intervalles "
    "sont placés un peu haut. <code>lab</code> : average precision de scikit-learn, les photos "
    "difficiles sont négatives ; <code>voc2007</code> : 11 points, <code>voc2010</code> : aire "
    "sous la courbe interpolée, les photos difficiles laissées de côté dans les deux. La durée "
    "d’une sonde est sans celle de ses descripteurs.",
    "sortable": "Cliquer sur un titre de colonne pour trier.",
    "best": "meilleure",
    "column_run": "exécution",
    "column_regime": "ce qui s’entraîne",
    "column_weights": "poids",
    "column_photos": "entraînée sur",
    "column_map": "mAP, {protocol}",
    "column_train_map": "mAP sur train, {protocol}",
    "column_parameters": "paramètres entraînés",
    "column_rate": "photos/s",
    "column_time": "durée",
    "column_seed": "graine",
    "column_commit": "commit",
    "regime_probe": "sonde linéaire",
    "regime_head": "tête",
    "regime_partial": "une partie",
    "regime_full": "tout",
    "regime_scratch": "tout, de poids aléatoires",
    "no_weights": "aucun",
    "unknown": "–",
    "published": "Publié, pour comparaison",
    "published_note": "Réseaux ImageNet supervisés sur VOC2007, entraînés sur trainval et testés "
    "sur test. Ne comparer que ce qui s’accorde en average precision, photos difficiles et entrée.",
    "column_source": "source",
    "column_model": "réseau",
    "column_ap": "average precision",
    "column_difficult": "photos difficiles",
    "column_input": "entrée",
    "study": "L’étude ReLU : {name}",
    "study_note": "Époques jusqu’à la précision du titre sur les chiffres mis de côté, ou jusqu’à "
    "1 % de leur perte minimale : médiane de {seeds} graines avec intervalle à 95 % ; chaque "
    "activation à son meilleur taux d’apprentissage.",
    "column_network": "réseau",
    "column_activation": "activation",
    "column_learning_rate": "taux d’apprentissage",
    "column_lowest_loss": "perte minimale, époques",
    "column_test_accuracy": "précision sur test",
    "study_all_diverged": "a divergé",
    # Figures.
    "figure_loss": "Perte d’entraînement",
    "figure_binary_accuracy": "Précision d’entraînement",
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
    "always_no": "Répondre non à toutes les classes donne {share} % d’étiquettes justes sur "
    "{split}.",
    "axis_map": "mAP (lab), %",
    "axis_learning_rate": "taux d’apprentissage",
    "axis_ap": "AP, %",
    "axis_recall": "rappel",
    "axis_precision": "précision",
    "axis_also": "ont aussi celle-ci",
    "axis_with": "des photos avec",
    "axis_difference": "points de mAP",
    "axis_score": "score",
    "axis_nats": "perte, nats",
    "axis_error": "erreur, %",
    "axis_gradients": "norme sur toutes les couches",
    "label_present": "classe présente",
    "label_absent": "classe absente",
    # Classes.
    "classes_note": "Les points sont l’average precision, les traits leur intervalle à 95 %. Les "
    "classes sont dans l’ordre de la meilleure exécution.",
    "column_class": "classe",
    "column_positives": "photos avec",
    "precision_recall": "Précision et rappel",
    "together_note": "Lecture : parmi les photos de la classe d’une ligne, la part qui a aussi la "
    "classe d’une colonne.",
    "mistaken": "Prises l’une pour l’autre",
    "mistaken_note": "De <strong>{run}</strong> : on prend de chaque classe autant de photos qu’il "
    "y en a, les mieux notées. Celles qui ne l’ont pas sont ses fausses alarmes ; les paires "
    "disent ce qu’il y avait.",
    "mistaken_none": "Il n’y a parmi elles aucune fausse alarme.",
    "column_seen": "vu",
    "column_there": "en réalité",
    "column_count": "photos",
    "column_share": "% des fausses alarmes",
    # Photos.
    "photos_note": "De <strong>{run}</strong> sur {split} : pour chaque classe, les photos les "
    "mieux notées qui l’ont, les mieux notées qui ne l’ont pas, et les moins bien notées qui "
    "l’ont.",
    "maps": "Montrer ce qui parle pour la classe, et où",
    "maps_note": "La couche de couleur est la carte d’activation de la classe, exacte, car la tête "
    "voit la moyenne de la sortie du dernier étage : la moyenne de la carte et le biais de la "
    "classe font le logit de la photo. Seul ce qui parle pour la classe est coloré, chaque photo "
    "selon son propre maximum ; une case de la carte voit une grande partie de la photo.",
    "kind_hit": "Trouvées",
    "kind_false alarm": "Fausses alarmes",
    "kind_miss": "Manquées",
    "none": "aucune",
    "alt_photo": "photo {photo} : {labels}",
    "photos_left_out": "{count} autres classes sont omises pour que la page reste petite.",
    "photos_missing": "Aucune exécution n’a ici de galerie. Le réglage fin en garde une "
    "(<code>gallery_test.npz</code>) : <code>{command}</code>",
    # Questions.
    "missing": "Une telle exécution manque ici. Ceci la produit :",
    "answered_from": "Réponses tirées des exécutions sur",
    "q_activation": "Quelle activation converge plus vite, et pourquoi ?",
    "q_sigmoid": "Pourquoi une sigmoïde et pas un softmax ?",
    "q_cross_entropy": "Que calcule l’entropie croisée binaire, et pourquoi convient-elle à "
    "plusieurs étiquettes ?",
    "q_freezing": "Que veut dire geler tout sauf la dernière couche ?",
    "q_probe": "Quelle est la mAP de la sonde linéaire ?",
    "q_finetuning": "Quelle est la mAP du réglage fin ?",
    "q_conclusion": "Conclusion",
    "on_network": "{network}, jusqu’à {goal} : {found}",
    "study_diverged": "{gone} : divergence à tous les taux d’apprentissage ; les deux ne se "
    "comparent pas.",
    "study_neither": "ni {fast} ni {slow} n’y arrive en {epochs} époques ; laquelle des deux est "
    "la plus rapide reste ouvert.",
    "study_single": "{fast} a mis {fast_epochs} époques et {slow} {slow_epochs} ; c’est une seule "
    "exécution de chacune, et rien ne s’ensuit.",
    "study_tie": "{fast} a mis {fast_epochs} époques et {slow} {slow_epochs} : égalité, car le "
    "rapport {ratio} peut aussi bien être 1.",
    "study_faster": "<strong>{fast}</strong> a mis {fast_epochs} époques et {slow} {slow_epochs} : "
    "{ratio} fois autant.",
    "ratio_at_least": "plus de {value} [au moins {low}]",
    "study_why": "Pourquoi, dans {networks} : en descendant vers la première couche, le gradient "
    "est multiplié par les poids et, à chaque unité, par la pente. La pente d’une sigmoïde est au "
    "plus 1/4, celle de tanh au plus 1, celle de ReLU est 1 là où une unité est active.",
    "study_why_not": "{networks} : des pentes d’au plus 1/4 pour une sigmoïde et de 1 pour une "
    "ReLU active devraient favoriser ReLU ; ces exécutions ne le montrent pas.",
    "study_gradients": "{network} : norme moyenne du gradient de {layer}, sa première couche, dans "
    "la première époque : {found}. Une étape est le taux fois le gradient : un plus grand taux "
    "peut compenser un gradient plus petit.",
    "study_at_rate": "(taux d’apprentissage {rate})",
    "study_idle": "{network}, à la fin, dans la couche qui en a le plus : {found}.",
    "study_saturated": "{name} {share} % de sorties saturées",
    "study_dead": "{name} {share} % d’unités mortes",
    "sigmoid_several": "{share} % des photos ont plus d’une étiquette ; une photo en a {mean} en "
    "moyenne et au plus {most}. Un softmax met les scores d’une photo en concurrence pour une "
    "somme de 1 ; les sigmoïdes demandent pour chaque classe, seule, si elle est là.",
    "sigmoid_single": "Aucune de ces photos n’a plus d’une étiquette ({mean} en moyenne) : un "
    "softmax ferait aussi bien ; les sigmoïdes conviennent là où les étiquettes peuvent être "
    "plusieurs, ou aucune.",
    "sigmoid_one": "Par exemple {photo}, qui montre {labels} : les scores de {run} font {total}. "
    "Le softmax des mêmes logits doit partager 1 entre les classes.",
    "bce_formula": "Pour chaque classe d’étiquette y et de score p, c’est −y ln p − (1 − y) ln(1 − "
    "p) : −ln p où la classe est là, −ln(1 − p) où elle n’y est pas. On fait la moyenne des "
    "{num_classes} termes : une question par oui ou non pour chaque classe, et n’importe quel "
    "nombre d’étiquettes peut être juste.",
    "bce_one": "Sur {photo} les termes font {total} ; divisés par {num_classes}, {mean}. Le plus "
    "grand, {worst_term}, est celui de <em>{worst}</em>. Sur toutes les photos de {split} la "
    "moyenne est {loss}.",
    "bce_class": "classe",
    "bce_label": "étiquette y",
    "bce_score": "score p",
    "bce_term": "terme, nats",
    "freezing_is": "Quand tout est gelé sauf la dernière couche, le réseau est une fonction fixe "
    "d’une photo vers ses descripteurs profonds, et la dernière couche une régression logistique "
    "sur eux : c’est la sonde linéaire, sauf que les descripteurs sont recalculés à chaque étape "
    "au lieu d’une seule fois.",
    "freezing_tie": "Que les deux s’accordent était à prévoir.",
    "freezing_differ": "Les deux diffèrent : regarder les époques, le taux d’apprentissage, le "
    "départ de la tête, la taille des photos et les étiquettes difficiles, qui doivent être les "
    "mêmes.",
    "mean_ap": "<strong>{run}</strong> : mAP {means} sur {split} ({count} photos) ; {train} sur "
    "train ({protocol}).",
    "mean_ap_alone": "<strong>{run}</strong> : mAP {means} sur {split} ({count} photos).",
    "verdict_better": "<strong>{run}</strong> est meilleure que {other} : {points} points "
    "{interval} de mAP ({protocol} ; bootstrap apparié sur les mêmes photos).",
    "verdict_tie": "{run} et {other} sont à égalité : {points} points {interval} de mAP "
    "({protocol} ; bootstrap apparié sur les mêmes photos) peuvent aussi bien être 0.",
    "verdict_none": "{run} et {other} ne se comparent pas : aucune classe n’a de photo positive.",
    "conclusion_best": "Sur {name}, <strong>{run}</strong> a la plus haute mAP sur {split}.",
    "conclusion_pretraining_better": "Le préentraînement paie : par rapport à {scratch}, "
    "l’exécution partie de poids aléatoires, {run} a {points} points {interval}.",
    "conclusion_pretraining_tie": "Si le préentraînement paie reste ouvert : par rapport à "
    "{scratch}, l’exécution partie de poids aléatoires, {run} a {points} points {interval}.",
    "conclusion_pretraining_worse": "Le préentraînement n’a pas payé pour {run} : par rapport à "
    "{scratch}, l’exécution partie de poids aléatoires, elle a {points} points {interval}.",
    # Trust.
    "warnings": "Avertissements",
    "no_warnings": "Aucune des vérifications n’a rien trouvé.",
    "made_of": "De quoi les exécutions sont faites",
    "fact_command": "configuration",
    "fact_weights": "poids",
    "fact_data": "données",
    "fact_ids": "sha256 des identifiants de {role}",
    "fact_preprocessing": "prétraitement",
    "fact_features": "descripteurs",
    "fact_versions": "versions",
    "fact_devices": "matériel",
    "fact_commit": "commit",
    "fact_config": "toute la configuration",
    "warn_all_constant": "Toutes les photos de {role} ont les mêmes scores : le réseau ou ses "
    "descripteurs sont constants.",
    "warn_constant": "Toutes les photos de {role} ont le même score pour {classes}.",
    "warn_no_probabilities": "Les scores sur {role} vont de {low} à {high} : ce ne sont pas des "
    "probabilités, et aucun exemple n’est calculé sur eux.",
    "warn_no_ids": "Les scores sur {role} n’ont pas d’identifiants : on ne peut vérifier à quelle "
    "photo appartient une ligne.",
    "warn_repeated_ids": "Des photos figurent deux fois dans {role}.",
    "warn_other_ids": "Les identifiants des scores sur {role} ne sont pas ceux dont results.json "
    "donne le sha256 : des lignes peuvent appartenir à d’autres photos.",
    "warn_other_count": "Il y a {rows} lignes de scores sur {role} et {images} photos dans "
    "results.json.",
    "warn_other_map": "results.json annonce une mAP de {stated} sur {role}, les scores à côté "
    "donnent {computed}.",
    "warn_ties": "Sur {role}, {count} photos sur {images} sont ex æquo pour {name} : des photos "
    "avec et sans la classe ont exactement le même rang, comme des scores saturés, et la façon de "
    "les départager décide de son AP (voc2007, voc2010 : l’ordre du fichier). Classes avec des ex "
    "æquo : {classes}.",
    "warn_other_logits": "Les logits sur {role} ne sont pas ceux des scores à côté d’eux.",
    "warn_overlap": "{count} photos sont à la fois dans {role} et dans {other}.",
    "warn_above_train": "La mAP sur {role} dépasse celle sur train de plus que son intervalle (à "
    "partir de {low}, train {train}) : les jeux ont-ils été échangés, ou train est-il le plus "
    "difficile ?",
    "warn_not_computable": "{protocol} ne peut être calculé : {reason}.",
    "warn_none_difficult": "Aucune photo de {role} n’est marquée difficile. Si le jeu de données a "
    "de telles marques et qu’elles ont été perdues, voc2007 et voc2010 ne sont pas ceux du devkit.",
    "warn_not_voc2007": "Les données s’appellent voc2007, mais VOC2007 a 5 011 et 4 952 photos et "
    "ici il y en a {train} et {test} : ne les mettre à côté d’aucun chiffre publié.",
    "warn_without_positives": "Aucune photo de {role} n’a {classes} : hors de la mAP.",
    "warn_untrained": "Elle a été entraînée pendant 0 époque.",
    "warn_resumed": "Elle a été arrêtée et a repris à l’étape {step}.",
    "warn_unfinished": "Son statut est {status}, pas finished.",
    "warn_selected_on_test": "Le jeu de test {split} a aussi servi à entraîner ou à choisir : sa "
    "mAP ne dit rien sur de nouvelles photos.",
    "warn_only_train": "Il n’y a pas de jeu de test : cette mAP est sur des photos d’entraînement.",
    "warn_only_val": "Il n’y a pas de jeu de test : cette mAP est sur les photos qui ont servi à "
    "choisir le point de reprise.",
    "warn_no_commit": "Aucun commit connu : le code a tourné hors d’un dépôt.",
    "warn_dirty": "Le code a été modifié depuis le commit {commit}.",
    "warn_best_on_test": "La meilleure exécution est marquée par sa mAP sur test. Choisir par "
    "elle, c’est choisir sur test : choisir sur un jeu de validation, et attendre moins que ce "
    "qui est écrit ici.",
    "warn_different_weights": "Les exécutions partent de {count} poids différents.",
    "warn_different_train_split": "Les exécutions ont été entraînées sur {count} ensembles de "
    "photos différents.",
    "warn_different_jax": "Les exécutions ont été faites avec {count} versions de jax.",
    "warn_diverged": "{network} avec {activation} a divergé à tous les taux d’apprentissage.",
    "warn_grids_edge": "{network} avec {activation} : le meilleur taux, {rate}, est au bord de la "
    "grille ; une plus large peut en avoir un meilleur.",
    "warn_few_seeds": "L’étude a {count} graines : des intervalles sur moins de 5 disent peu.",
}
