# Table VII: lambda_D = 0.5, lambda_A = 0.5.
_base_ = '../deit-s_mae-b.py'
model = dict(losses=dict(loss_ra=dict(loss_weight=0.5)))
