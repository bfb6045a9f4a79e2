# No distillation: both heads of the same student are trained on the labels.
_base_ = './deit-ti_mae-b.py'
student = _base_.model.student.model
model = dict(_delete_=True, **{**student, 'head': {**student.head, 'distilled_training': False}})
