# Table VII: lambda_K = 1, lambda_F = 2, no relations.
_base_ = '../deit-ti_mae-b_fitnet.py'
model = dict(losses=dict(loss_feat=dict(loss_weight=2.0)))
