# No distillation: the same student, trained on the labels.
_base_ = './resnet18_resnet101.py'
model = dict(_delete_=True, **_base_.model.student.model)
