from .meta_trainer import MetaTrainer as MetaTrainer
