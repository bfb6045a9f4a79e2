# Table VII: lambda_K = 0.5, nothing else.
_base_ = '../deit-ti_mae-b_kd.py'
model = dict(losses=dict(loss_kd=dict(loss_weight=0.5)))
