"""A stand-in for the parts of Yandex Cloud that a training needs: its API, and Spark jobs that really run."""

from local.yandex.stand_in import YandexStandIn

__all__ = ["YandexStandIn"]
